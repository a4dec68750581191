"""The BMC's side against a real Redfish service with TLS and a password (machines are the emulator's fakes)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kube.errors import KtoolError
from provision.inventory.lab import RedfishSettings
from provision.providers.redfish.bmc import Bmc, BootDevice, Power, base_url, password_of
from tests.ports import free_port
from tests.provision.redfish.redfish_service import FAKE, PASSWORD, RedfishService, redfish_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedfishService]:
    with redfish_service(tmp_path_factory.mktemp("bmc"), FAKE) as running:
        yield running


def test_power_and_boot_device(service: RedfishService) -> None:
    bmc = Bmc("metal-1", service.settings("metal-1"), PASSWORD)
    status = bmc.status()
    assert status.power is Power.OFF
    assert status.system.startswith("/redfish/v1/Systems/")
    for device in (BootDevice.NETWORK, BootDevice.DISK):
        bmc.boot_from(device)
        assert bmc.status().boot is device
    bmc.power_on()
    assert bmc.wait_power(Power.ON, timeout=30)
    bmc.power_off(force=True)
    assert bmc.wait_power(Power.OFF, timeout=30)


def test_a_state_that_does_not_come_is_waited_for_no_longer(service: RedfishService) -> None:
    slept: list[float] = []
    bmc = Bmc("metal-2", service.settings("metal-2"), PASSWORD)
    assert not bmc.wait_power(Power.ON, timeout=3, now=lambda: sum(slept), sleep=slept.append)
    assert sum(slept) == 3


@pytest.mark.parametrize("system", ["metal-2", "11111111-2222-3333-4444-555555555502"])
def test_a_system_by_name_or_uuid(service: RedfishService, system: str) -> None:
    assert Bmc("m", service.settings(system), PASSWORD).only_mac() == "52:54:00:aa:00:02"


@pytest.mark.parametrize(
    ("more", "password", "says"),
    [
        ({"system": ""}, PASSWORD, "which of its systems"),
        ({"system": "metal-9"}, PASSWORD, "which of its systems"),
        ({}, "wrong", "refuses"),
        ({}, "", "refuses"),
        ({"ca_file": None}, PASSWORD, "certificate that is not trusted"),
    ],
)
def test_what_is_wrong_is_said(
    service: RedfishService, more: dict[str, object], password: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = service.settings(**({"system": "metal-1"} | more))  # type: ignore[arg-type]
    with pytest.raises(KtoolError) as raised:
        Bmc("metal-1", settings, password).status()
    assert says in raised.value.what
    assert raised.value.mend
    assert not password or password not in str(raised.value) + caplog.text


def test_unchecked_certificates_only_if_asked_for(service: RedfishService) -> None:
    assert Bmc("metal-1", service.settings("metal-1", ca_file=None, verify=False), PASSWORD).status()


def test_no_bmc_there() -> None:
    with pytest.raises(KtoolError, match="cannot be reached"):
        Bmc("metal-1", RedfishSettings(url=f"https://127.0.0.1:{free_port()}"), PASSWORD).status()


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("bmc.example", "https://bmc.example"),
        ("https://bmc.example:8443/redfish/v1", "https://bmc.example:8443"),
        ("http://192.0.2.1/", "http://192.0.2.1"),
    ],
)
def test_base_url(url: str, base: str) -> None:
    assert base_url(url) == base


def test_the_password_comes_from_the_inventory_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert password_of({"ktool_redfish_password": "one"}) == "one"
    assert password_of({}) == ""
    monkeypatch.setenv("KTOOL_REDFISH_PASSWORD", "two")
    assert password_of({}) == "two"
    assert password_of({"ktool_redfish_password": "one"}) == "one"
