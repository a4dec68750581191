from __future__ import annotations

from pathlib import Path

import yaml

from kube.etcd_certificates import EtcdCertificates
from provision.etcd.settings import config_text


def settings(**more: str) -> dict[str, object]:
    text = config_text(
        name="m1",
        address="192.0.2.1",
        data_dir=Path("/d/etcd"),
        certificates=EtcdCertificates(Path("/d/pki")),
        **{"token": "t", **more},
    )
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def test_the_first_member_begins_a_cluster() -> None:
    found = settings()
    assert found["initial-cluster"] == "m1=https://192.0.2.1:2380"
    assert found["initial-cluster-state"] == "new"


def test_the_others_join_it() -> None:
    found = settings(cluster="m0=https://192.0.2.9:2380,m1=https://192.0.2.1:2380")
    assert found["initial-cluster-state"] == "existing"
    assert str(found["initial-cluster"]).startswith("m0=")


def test_nothing_is_served_without_a_client_certificate() -> None:
    found = settings()
    for side in ("client-transport-security", "peer-transport-security"):
        security = found[side]
        assert isinstance(security, dict)
        assert security["client-cert-auth"] is True
        assert security["trusted-ca-file"] == "/d/pki/etcd/ca.crt"
    urls = [str(value) for name, value in found.items() if name.endswith("-urls")]
    assert urls
    assert not [url for text in urls for url in text.split(",") if not url.startswith("https://")]
