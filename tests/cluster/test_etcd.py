"""`ktool etcd` on a master."""

from __future__ import annotations

import pytest

from tests import etcd
from tests.cluster.real_cluster import Cluster, eventually


@pytest.mark.skipif(etcd.missing() != "", reason=etcd.missing())
def test_a_member_that_was_stopped_is_started(no_cluster: Cluster) -> None:
    cluster = no_cluster
    cluster.up("--no-agent", "--store", "etcd")
    assert "healthy" in cluster.ktool("etcd", "members").stdout
    assert cluster.ktool("etcd", "start").stdout == "nothing to do\n"
    cluster.services.stop("etcd")
    assert cluster.ktool("etcd", "members", check=False).returncode == 1
    assert cluster.ktool("etcd", "start").stdout == "started\n"
    eventually(lambda: cluster.ktool("etcd", "members", check=False).returncode == 0, what="it is healthy")
    eventually(lambda: cluster.ktool("get", "namespaces", check=False).returncode == 0, what="the master goes on")
