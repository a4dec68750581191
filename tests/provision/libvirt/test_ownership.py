"""Two labs of one name at one libvirt, by libvirt's own driver for tests: it has domains, networks and pools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from kube.errors import KtoolError
from provision.lab_state import LabState
from provision.providers.libvirt import volume_names
from provision.providers.libvirt.definitions import domain_xml
from provision.providers.libvirt.domains import tagged
from provision.providers.libvirt.ownership import require_same_lab
from provision.providers.libvirt.provider import LibvirtProvider
from tests.provision.libvirt.labs import lab
from tests.provision.libvirt.test_definitions import ID, SETTINGS


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A host of this test's own, with nothing on it."""
    (tmp_path / "node.xml").write_text("<node/>")
    return f"test://{tmp_path}/node.xml"


@pytest.fixture
def provider(tmp_path: Path, uri: str) -> Iterator[LibvirtProvider]:
    made = LibvirtProvider(lab("m1", libvirt_uri=uri), LabState(tmp_path / "lab"))
    yield made
    made._connection.close()


def define(provider: LibvirtProvider, lab_id: str) -> None:
    text = domain_xml(replace(SETTINGS, lab_id=lab_id, oem_strings=())).replace("type='qemu'", "type='test'", 1)
    text = text.replace("machine='q35'", "").replace("arch='x86_64'", "arch='i686'")
    provider._connection.handle.defineXML(text)


@pytest.mark.parametrize(("own", "other"), [("", ID), ("a", ID), ("a", ""), ("", "")])
def test_another_labs_are_told_and_left(tmp_path: Path, provider: LibvirtProvider, own: str, other: str) -> None:
    state = LabState(tmp_path / "lab")
    if own:
        state.create()
    define(provider, other)
    machine = lab("m1").machines[0]
    for touching in (
        provider.find,
        lambda: provider.prepare([machine], print),
        lambda: provider.create(machine, print),
        lambda: provider.remove("m1", print),
        lambda: provider.remove("another", print),
        lambda: provider.cleanup(print),
    ):
        with pytest.raises(KtoolError, match="another lab of the name lab") as error:
            touching()
        assert "lab-m1" in error.value.found
        assert "ktool_lab: another-name" in error.value.mend
        assert (f"echo {ID} >{state.id_file}" in error.value.mend) == bool(other)
    assert provider._connection.handle.lookupByName("lab-m1").name() == "lab-m1"
    assert not state.provider("libvirt").exists()


def test_the_id_put_back_makes_it_this_labs(tmp_path: Path, provider: LibvirtProvider) -> None:
    state = LabState(tmp_path / "lab")
    define(provider, ID)
    state.create()
    state.id_file.write_text(f"{ID}\n")
    assert [(facts.machine, facts.lab_id) for _, facts in provider._domains.all()] == [("m1", ID)]
    require_same_lab("the pool", lab="lab", other=ID, state=state)


def test_where_the_machines_were_made_is_kept(tmp_path: Path, uri: str) -> None:
    state = LabState(tmp_path / "lab")
    state.provider("libvirt").mkdir(parents=True)
    (state.provider("libvirt") / "uri").write_text(f"{uri}\n")
    moved = LibvirtProvider(lab("m1", libvirt_uri="qemu:///elsewhere"), state)
    assert moved._domains.all() == []
    with pytest.raises(KtoolError, match="another libvirt than the inventory names") as error:
        moved.prepare([], print)
    assert error.value.wanted == uri
    assert moved.cleanup(print) == []
    assert not state.provider("libvirt").exists()


class Failing:
    """A domain of which libvirt tells an error."""

    def __init__(self, code: int) -> None:
        self._error = libvirt.libvirtError("refused")
        self._error.err = (code, 0, "refused", 0, None, None, None, 0, 0)

    def metadata(self, *_: object) -> str:
        raise self._error


@pytest.mark.parametrize(
    ("code", "suppressed"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, True),
        (libvirt.VIR_ERR_NO_DOMAIN_METADATA, True),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, False),
        (libvirt.VIR_ERR_RPC, False),
    ],
)
def test_only_what_is_not_there_is_passed_over(code: int, suppressed: bool) -> None:
    if suppressed:
        assert tagged(Failing(code)) is None
    else:
        with pytest.raises(libvirt.libvirtError):
            tagged(Failing(code))


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        *((name, True) for name in volume_names.of_machine("node-1.example")),
        (volume_names.base("0a1b2c"), True),
        (volume_names.kernel("0a1b2c"), True),
        (volume_names.initrd("0a1b2c"), True),
        ("photos.tar", False),
        ("backup of m1.qcow2", False),
        ("base-1.qcow2.bak", False),
        ("lost+found", False),
    ],
)
def test_volumes_that_are_ours(name: str, ours: bool) -> None:
    assert volume_names.is_ours(name) == ours
