"""`ktool etcd` where there is no etcd to be asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ktool.cli import cli
from kube.clock import SystemClock
from kube.errors import KtoolError
from kube.etcd_certificates import EtcdCertificates
from provision.etcd.client import EtcdClient, NotAMaster


@pytest.mark.parametrize("command", [("members",), ("remove", "master-2")])
def test_a_machine_that_is_no_master_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, ["--data-dir", str(tmp_path), "etcd", *command])
    assert result.exit_code == 1
    assert "etcd cannot be asked from here" in result.output
    assert f"{tmp_path}/pki/etcd/ca.crt: No such file or directory" in result.output
    assert "on such a master" in result.output


async def test_a_damaged_certificate_is_told_by_its_file(tmp_path: Path) -> None:
    certificates = EtcdCertificates(tmp_path)
    certificates.ensure(name="one", address="192.0.2.1", clock=SystemClock())
    certificates.client_cert.write_text("no certificate")
    with pytest.raises(NotAMaster) as caught:
        EtcdClient(["https://127.0.0.1:2379"], certificates)
    assert isinstance(caught.value, KtoolError)
    assert str(certificates.client_cert) in caught.value.found
