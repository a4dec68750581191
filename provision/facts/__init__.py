"""Facts about machines that are reached over SSH: one short look, without anything installed there."""
