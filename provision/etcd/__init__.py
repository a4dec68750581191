"""etcd beside the master: a member on each machine, which join and leave the cluster one after the other."""
