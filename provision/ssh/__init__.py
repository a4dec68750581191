"""Machines over SSH: connections, files, forwarded ports."""
