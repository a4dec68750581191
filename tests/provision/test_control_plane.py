"""What a further master needs, and what stands in its way: pure parts, and files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from kube import join, pki
from kube.clock import SystemClock
from kube.cluster_info import JoinError
from kube.errors import KtoolError
from kube.join import CONTROL_PLANE_FILES, ControlPlane, JoinConfig
from provision.local_cluster import control_plane, steps
from provision.local_cluster.config import LocalClusterConfig
from provision.local_cluster.enrolment import replace_name

CA = pki.create_ca(clock=SystemClock())
OTHER = pki.create_ca(clock=SystemClock())
SECRET = "SECRET-" * 5


def keys(ca: pki.KeyPair = CA) -> ControlPlane:
    files = {name: f"{SECRET}{name}" for name in CONTROL_PLANE_FILES} | {"ca.crt": ca.cert_pem.decode()}
    return ControlPlane(files=files, etcd_endpoints=("https://192.0.2.1:2379",))


def invitation(**more: object) -> JoinConfig:
    config = JoinConfig(
        server="https://192.0.2.1:6443",
        token="abcdef.0123456789abcdef",
        ca_cert_hashes=(pki.ca_pin(CA.certificate),),
        control_plane=keys(),
    )
    return msgspec.structs.replace(config, **more)


@pytest.fixture
def config(tmp_path: Path) -> LocalClusterConfig:
    return LocalClusterConfig(data_dir=tmp_path / "ktool", node_name="m2")


def test_a_join_file_for_a_master_and_back(tmp_path: Path) -> None:
    path = tmp_path / "join.json"
    join.write(path, invitation())
    assert path.stat().st_mode & 0o777 == 0o600
    assert join.read(path) == invitation()
    assert SECRET not in repr(invitation())
    assert SECRET not in repr(keys())


def test_what_the_agent_keeps_has_no_keys() -> None:
    assert SECRET.encode() not in join.text_of(replace_name(invitation(), "m2"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"files": {"ca.crt": "x"}}, "wanted all of"),
        ({"files": {**keys().files, "../x": "y"}}, "wanted all of"),
        ({"etcd_endpoints": ()}, "at least one URL"),
        ({"etcd_endpoints": ("http://x",)}, "https"),
    ],
)
def test_malformed_ones_are_refused_without_showing_keys(changes: dict[str, object], says: str) -> None:
    wrong = invitation(control_plane=msgspec.structs.replace(keys(), **changes))
    with pytest.raises(KtoolError, match=says) as refused:
        join.parse(msgspec.json.encode(wrong), source="here")
    assert SECRET not in str(refused.value)
    assert "controlPlane" in json.loads(msgspec.json.encode(wrong))


def test_keys_come_into_their_places_for_root_alone(config: LocalClusterConfig) -> None:
    control_plane.write_keys(config, keys())
    pki_dir = config.data_dir / "pki"
    for name in CONTROL_PLANE_FILES:
        assert (pki_dir / name).read_text() == keys().files[name]
        assert (pki_dir / name).stat().st_mode & 0o777 == (0o600 if name.endswith(".key") else 0o644)


def test_nothing_stands_in_the_way_of_a_bare_machine_or_a_second_run(config: LocalClusterConfig) -> None:
    control_plane.check(config, invitation(), keys())
    control_plane.write_keys(config, keys())
    config.etcd_file.write_text("")
    control_plane.check(config, invitation(), keys())


def test_the_pin_decides_not_the_keys(config: LocalClusterConfig) -> None:
    with pytest.raises(JoinError, match="contradicts itself"):
        control_plane.check(config, invitation(), keys(OTHER))


def test_another_clusters_machine_is_left(config: LocalClusterConfig) -> None:
    control_plane.write_keys(config, keys(OTHER))
    with pytest.raises(JoinError, match="another cluster"):
        control_plane.check(config, invitation(), keys())


def test_a_master_with_sqlite_is_left(config: LocalClusterConfig) -> None:
    (config.data_dir / "store").mkdir(parents=True)
    (config.data_dir / "store" / "state.db").touch()
    with pytest.raises(JoinError, match="a store of its own"):
        control_plane.check(config, invitation(), keys())


async def test_only_a_master_with_etcd_can_have_another(config: LocalClusterConfig) -> None:
    with pytest.raises(KtoolError, match="cannot have another one"):
        await control_plane.invitation_of(config)


async def test_a_nodes_join_file_makes_no_master(config: LocalClusterConfig) -> None:
    with pytest.raises(JoinError, match="not for a master"):
        await control_plane.join(config, invitation(control_plane=None))
    assert not config.data_dir.exists()


@pytest.mark.parametrize(
    ("there", "wanted", "chosen"),
    [
        ("", "", "sqlite"),
        ("", "etcd", "etcd"),
        ("sqlite", "", "sqlite"),
        ("etcd", "", "etcd"),
        ("etcd", "etcd", "etcd"),
    ],
)
def test_the_engine_of_the_store(config: LocalClusterConfig, there: str, wanted: str, chosen: str) -> None:
    _have(config, there)
    assert steps.chosen_store(replace(config, store=wanted)) == chosen


@pytest.mark.parametrize(("there", "wanted"), [("sqlite", "etcd"), ("etcd", "sqlite")])
def test_the_engine_is_not_changed_where_there_is_data(config: LocalClusterConfig, there: str, wanted: str) -> None:
    _have(config, there)
    with pytest.raises(KtoolError, match="cannot be changed") as refused:
        steps.chosen_store(replace(config, store=wanted))
    assert there in refused.value.found
    assert f"--store {wanted}" in refused.value.mend


def _have(config: LocalClusterConfig, engine: str) -> None:
    if engine == "etcd":
        (config.etcd_dir / "member").mkdir(parents=True)
    elif engine:
        (config.data_dir / "store").mkdir(parents=True)
        (config.data_dir / "store" / "state.db").touch()
