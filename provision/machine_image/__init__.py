"""Disk images and root folders of machines that ktool makes: built from Debian packages, or taken as given."""
