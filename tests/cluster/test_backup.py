"""`ktool backup` and `ktool restore`: one master, with either store, and from one store into the other."""

from __future__ import annotations

import base64
import gzip
import subprocess
from pathlib import Path

import pytest

from kube import pki
from tests import etcd
from tests.cluster.real_cluster import KTOOL, Cluster, eventually

STORES = ("sqlite", pytest.param("etcd", marks=pytest.mark.skipif(etcd.missing() != "", reason=etcd.missing())))
OTHER = {"sqlite": "etcd", "etcd": "sqlite"}


def up(cluster: Cluster, store: str) -> None:
    cluster.up("--no-agent", "--store", store)


def restore(cluster: Cluster, file: Path, *more: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return cluster.ktool("restore", str(file), "--supervisor", "supervisord", *more, check=check)


def config_maps(cluster: Cluster) -> dict[str, str]:
    """Those of a test, with their uids."""
    found = cluster.core.list_namespaced_config_map("default").items
    return {one.metadata.name: one.metadata.uid for one in found if one.metadata.name in ("kept", "later")}


def make(cluster: Cluster, name: str) -> None:
    cluster.core.create_namespaced_config_map("default", {"metadata": {"name": name}, "data": {"a": "ä\n2"}})


@pytest.mark.parametrize("store", STORES)
def test_back_to_what_was(no_cluster: Cluster, store: str) -> None:
    cluster, file = no_cluster, no_cluster.root / "backup.tar.gz"
    up(cluster, store)
    ca = pki.ca_pin(pki.load_cert(cluster.data_dir / "pki" / "ca.crt"))
    make(cluster, "kept")
    kept = config_maps(cluster)
    secret = {"metadata": {"name": "s"}, "data": {"k": base64.b64encode(b"hidden").decode()}}
    cluster.core.create_namespaced_secret("default", secret)
    assert "objects, at revision" in cluster.ktool("backup", str(file)).stdout
    assert file.stat().st_mode & 0o777 == 0o600
    assert not [path for path in cluster.data_dir.iterdir() if path.name.startswith(".backup")]
    # the same by a pipe: nothing but the backup on standard output
    piped = subprocess.run([KTOOL, "--data-dir", str(cluster.data_dir), "backup", "-"], capture_output=True, check=True)
    assert b'"key":"/registry/configmaps/default/kept"' in gzip.decompress(piped.stdout)

    cluster.core.delete_namespaced_config_map("kept", "default")
    make(cluster, "later")
    changed, master = config_maps(cluster), cluster.pid("master")

    # neither without a yes, nor from half a backup, is anything done
    assert restore(cluster, file, check=False).returncode == 1
    half = cluster.root / "half"
    half.write_bytes(file.read_bytes()[:-200])
    refused = restore(cluster, half, "--yes", check=False)
    assert refused.returncode == 1
    assert "not a whole backup" in refused.stderr
    assert (config_maps(cluster), cluster.pid("master")) == (changed, master)

    assert "The cluster runs." in restore(cluster, file, "--yes").stdout
    assert config_maps(cluster) == kept
    assert cluster.core.read_namespaced_secret("s", "default").data == secret["data"]
    make(cluster, "later")
    # a master that is started again finds the same
    cluster.up("--no-agent")
    assert config_maps(cluster).keys() == {"kept", "later"}

    # the other engine is to take its place: where the old store still is, or on a machine that knows nothing
    cluster.down("--keep-data" if store == "sqlite" else "--no-leave")
    assert (cluster.data_dir / "pki").exists() is (store == "sqlite")
    told = restore(cluster, file, "--store", OTHER[store], "--yes")
    assert f"ktool up --store {OTHER[store]}" in told.stdout
    up(cluster, OTHER[store])
    assert config_maps(cluster) == kept
    assert pki.ca_pin(pki.load_cert(cluster.data_dir / "pki" / "ca.crt")) == ca

    # another cluster's machine is left alone
    cluster.down("--no-leave")
    up(cluster, "sqlite")
    refused = restore(cluster, file, "--yes", "--store", "sqlite", check=False)
    assert refused.returncode == 1
    assert "belongs to another cluster" in refused.stderr
    assert "kept" not in cluster.ktool("get", "configmaps", "-n", "default").stdout


@pytest.mark.parametrize("store", STORES)
def test_what_cannot_be_loaded_leaves_the_master_as_it_was(no_cluster: Cluster, store: str) -> None:
    cluster, file = no_cluster, no_cluster.root / "backup.tar.gz"
    up(cluster, store)
    make(cluster, "kept")
    kept = config_maps(cluster)
    cluster.ktool("backup", str(file))
    # whole, and yet no backup of ours: the same object twice
    plain = gzip.decompress(file.read_bytes())
    one, other = b"/registry/namespaces/kube-system", b"/registry/namespaces/kube-public"
    assert len(one) == len(other)
    file.write_bytes(gzip.compress(plain.replace(one, other)))
    failed = restore(cluster, file, "--yes", check=False)
    assert failed.returncode == 1
    assert "the store is not empty" in failed.stderr
    eventually(
        lambda: cluster.ktool("get", "configmaps", "-n", "default", check=False).returncode == 0, what="the API answers"
    )
    assert config_maps(cluster) == kept
