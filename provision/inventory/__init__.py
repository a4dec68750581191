"""Inventories: which machines there are and what they are for, in Ansible's own format."""
