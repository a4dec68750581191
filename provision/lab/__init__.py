"""Labs: from an inventory to a cluster of Ready nodes, and back to nothing."""
