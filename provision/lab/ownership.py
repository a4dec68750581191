"""Whose a machine is: a lab changes and clears only machines that are its own, or nobody's.

A machine that exists is not made by ktool, so nothing about it tells by itself which lab it belongs to. Before the
first change a lab leaves its id there (`/opt/ktool/lab`); the cluster's CA, which every part of it holds, says the
rest.
"""

from __future__ import annotations

from pathlib import Path

from kube import kubeconfig, pki
from kube.errors import KtoolError
from provision.facts.facts import RemoteFacts
from provision.facts.probe import LAB
from provision.lab.marks import leave
from provision.ssh.shell import Shell


def pin_of(path: Path) -> str:
    """The pin of the CA in a lab's kubeconfig; empty if there is none yet."""
    if not path.exists():
        return ""
    return pki.ca_pin(pki.parse_cert(kubeconfig.connect(path).ca_data, source=str(path)))


def is_bare(facts: RemoteFacts) -> bool:
    """Whether nothing of ktool is on the machine."""
    return not (facts.runtime_key or facts.lab or facts.ca or facts.state.exists)


def stranger(name: str, facts: RemoteFacts, *, lab_id: str, ca_pin: str) -> KtoolError | None:
    """Why a machine is not this lab's to change; None if it is, or if it is nobody's.

    `ca_pin` is that of this lab's cluster, empty if it has none yet.
    """
    if facts.lab and facts.lab == lab_id:
        return None
    if facts.lab:
        return KtoolError(
            f"{name} belongs to another lab",
            found=f"{LAB} says {facts.lab}",
            wanted=f"{lab_id}, or none",
            mend=f"take it out of that lab (ktool node remove {name}), or on the machine: ktool reset",
        )
    pin = facts.ca_pin
    if pin and pin != ca_pin:
        return KtoolError(
            f"{name} is part of another ktool cluster",
            found=f"the CA {pin[:23]}... of {facts.joined.server or 'its own master'}",
            wanted="a machine of this lab, or of none",
            mend="remove what it is part of, on the machine: ktool down",
        )
    return None


def claim(shell: Shell, facts: RemoteFacts, *, lab_id: str) -> None:
    """Note on a machine that it is this lab's from now on."""
    if facts.lab != lab_id:
        leave(shell, lab_id, LAB)
