"""What machines need to run ktool, carried to them as files: no internet, no pip (docs/bundle.md)."""
