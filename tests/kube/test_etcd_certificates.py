from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kube import pki
from kube.clock import SystemClock, VirtualClock
from kube.etcd_certificates import EtcdCertificates
from kube.pki import DAY, PKIError

CLOCK = SystemClock()


def usages(path: Path) -> set[x509.ObjectIdentifier]:
    return set(pki.load_cert(path).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_members_and_clients_of_one_ca(tmp_path: Path) -> None:
    made = EtcdCertificates(tmp_path)
    assert made.ensure(name="m1", address="192.0.2.1", clock=CLOCK)
    assert not made.ensure(name="m1", address="192.0.2.1", clock=CLOCK)
    ca = pki.load_cert(made.ca_cert)
    both = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    for cert, wanted in (
        (made.server_cert, both),  # etcd's gateway shows it to etcd itself
        (made.peer_cert, both),
        (made.client_cert, {ExtendedKeyUsageOID.CLIENT_AUTH}),
    ):
        pki.check_issued(pki.load_cert(cert), ca, CLOCK)
        assert usages(cert) == wanted
    assert {"m1", "192.0.2.1", "127.0.0.1"} <= pki.server_names(pki.load_cert(made.peer_cert))
    keys = (made.ca_key, made.server_key, made.peer_key, made.client_key)
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
    assert made.folder.stat().st_mode & 0o777 == 0o700


def test_another_address_makes_them_anew(tmp_path: Path) -> None:
    made = EtcdCertificates(tmp_path)
    made.ensure(name="m1", address="192.0.2.1", clock=CLOCK)
    client = made.client_cert.read_bytes()
    assert made.ensure(name="m1", address="192.0.2.2", clock=CLOCK)
    assert "192.0.2.2" in pki.server_names(pki.load_cert(made.server_cert))
    assert made.client_cert.read_bytes() == client


def test_a_pair_that_a_crash_tore_is_made_anew(tmp_path: Path) -> None:
    made = EtcdCertificates(tmp_path)
    made.ensure(name="m1", address="192.0.2.1", clock=CLOCK)
    pki.save_key(pki.create_key(), made.peer_key)
    assert made.ensure(name="m1", address="192.0.2.1", clock=CLOCK)
    pki.load_pair(cert=made.peer_cert, key=made.peer_key)


def test_half_a_ca_is_never_made_whole_by_another(tmp_path: Path) -> None:
    made = EtcdCertificates(tmp_path)
    made.ensure(name="m1", address="192.0.2.1", clock=CLOCK)
    made.ca_key.unlink()
    with pytest.raises(PKIError, match=r"half of etcd's CA"):
        made.ensure(name="m1", address="192.0.2.1", clock=CLOCK)


async def test_what_is_about_to_end_is_renewed_with_its_names(tmp_path: Path) -> None:
    clock = VirtualClock()
    made = EtcdCertificates(tmp_path)
    assert not made.renew(clock)
    made.ensure(name="m1", address="192.0.2.1", clock=clock)
    assert not made.renew(clock)
    before = pki.load_cert(made.server_cert)
    await clock.advance(330 * DAY)
    assert made.renew(clock)
    after = pki.load_cert(made.server_cert)
    assert pki.expires_at(after) > pki.expires_at(before)
    assert pki.server_names(after) == pki.server_names(before)
    assert usages(made.server_cert) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
