"""A cluster on this machine, or this machine's part of one.

`up` makes a master and an agent side by side (or mends them), `enrol` joins this machine to a cluster whose master
runs elsewhere, `down` removes either.
"""

from provision.local_cluster.config import AGENT, MASTER, LocalCluster, LocalClusterConfig
from provision.local_cluster.enrolment import enrol
from provision.local_cluster.removal import Removal, down
from provision.local_cluster.start import up

__all__ = ["AGENT", "MASTER", "LocalCluster", "LocalClusterConfig", "Removal", "down", "enrol", "up"]
