"""The engine for several masters: an etcd cluster (see `backend`).

Nothing is imported here: gRPC costs memory and a tenth of a second, which only a master with `--store etcd` pays.
"""
