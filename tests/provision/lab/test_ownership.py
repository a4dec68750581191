"""Which machines a lab may change and clear."""

from __future__ import annotations

import pytest

from kube import pki
from kube.clock import SystemClock
from provision.data_dir import StateFacts
from provision.facts.facts import RemoteFacts
from provision.lab.ownership import is_bare, stranger

CA = pki.cert_pem(pki.create_ca(clock=SystemClock()).certificate).decode()
OTHER = pki.cert_pem(pki.create_ca(clock=SystemClock()).certificate).decode()
PIN = pki.ca_pin(pki.parse_cert(CA.encode()))


@pytest.mark.parametrize(
    ("facts", "pin", "says"),
    [
        (RemoteFacts(), "", ""),
        (RemoteFacts(), PIN, ""),
        (RemoteFacts(lab="mine"), "", ""),
        (RemoteFacts(lab="mine", ca=CA), "", ""),
        (RemoteFacts(lab="mine", ca=OTHER), PIN, ""),
        (RemoteFacts(ca=CA), PIN, ""),
        (RemoteFacts(lab="theirs"), PIN, "belongs to another lab"),
        (RemoteFacts(lab="theirs", ca=CA), PIN, "belongs to another lab"),
        (RemoteFacts(ca=OTHER), PIN, "is part of another ktool cluster"),
        (RemoteFacts(ca=OTHER), "", "is part of another ktool cluster"),
    ],
)
def test_a_lab_changes_its_own_and_nobodys(facts: RemoteFacts, pin: str, says: str) -> None:
    found = stranger("m", facts, lab_id="mine", ca_pin=pin)
    assert (says in found.what) if says and found else (not says and found is None)


def test_a_lab_without_an_id_owns_no_cluster() -> None:
    assert stranger("m", RemoteFacts(ca=OTHER), lab_id="", ca_pin="") is not None
    assert stranger("m", RemoteFacts(), lab_id="", ca_pin="") is None


def test_a_bare_machine_has_nothing_to_clear() -> None:
    assert is_bare(RemoteFacts())
    assert not is_bare(RemoteFacts(runtime_key="abc"))
    assert not is_bare(RemoteFacts(state=StateFacts("/var/lib/ktool", exists=True)))
