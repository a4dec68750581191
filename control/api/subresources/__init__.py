"""Subresources and reviews that are more than a part of an object: one handler a file, found by its name."""
