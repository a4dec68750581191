"""Bare metal: machines that a BMC powers on and that install themselves over the network."""
