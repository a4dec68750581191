"""A cluster on this machine: master and agent side by side. `up` makes it (or mends it), `down` removes it."""

from provision.local_cluster.config import LocalCluster, LocalClusterConfig
from provision.local_cluster.removal import Removal, down
from provision.local_cluster.start import up

__all__ = ["LocalCluster", "LocalClusterConfig", "Removal", "down", "up"]
