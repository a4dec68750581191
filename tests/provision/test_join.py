from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest

from kube import join, pki, times
from kube.clock import SystemClock
from kube.errors import KtoolError
from kube.join import JoinConfig
from provision import bootstrap_token

PIN = "sha256:" + "0a" * 32
CONFIG = JoinConfig(
    server="https://192.0.2.1:6443", token="abcdef.0123456789abcdef", ca_cert_hashes=(PIN,), node_name="one"
)


def test_round_trip_as_a_secret_file(tmp_path: Path) -> None:
    path = tmp_path / "agent" / "join.json"
    join.write(path, CONFIG)
    assert join.read(path) == CONFIG
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert '"caCertHashes"' in path.read_text()


def test_the_token_s_secret_is_not_shown() -> None:
    assert CONFIG.token_id == "abcdef"
    assert "0123456789abcdef" not in repr(CONFIG)
    assert "0123456789abcdef" not in repr(bootstrap_token.BootstrapToken("abcdef", "0123456789abcdef"))


GOOD = {"server": "https://x", "token": "abcdef.0123456789abcdef", "caCertHashes": [PIN]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": None}, "token"),
        ({"server": "http://x"}, "https"),
        ({"token": "short"}, "token"),
        ({"caCertHashes": []}, "pin"),
        ({"caCertHashes": ["md5:1"]}, "sha256"),
        ({"x": 1}, "unknown field"),
    ],
)
def test_malformed_files_are_refused_without_showing_the_token(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "join.json"
    path.write_text(json.dumps(GOOD | changes))
    with pytest.raises(KtoolError, match=message) as refused:
        join.read(path)
    assert "0123456789abcdef" not in str(refused.value)
    path.write_text(json.dumps(GOOD)[:-1])
    with pytest.raises(KtoolError, match="no JSON"):
        join.read(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match="no join file"):
        join.read(tmp_path / "none")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(KtoolError, match="cannot be read") as refused:
        join.read(tmp_path)
    assert str(tmp_path) in refused.value.found


def test_a_generated_token_fits_the_join_file_and_its_secret() -> None:
    token = bootstrap_token.generate()
    ca = pki.create_ca(clock=SystemClock())
    config = JoinConfig(server="https://x", token=token.text, ca_cert_hashes=(pki.ca_pin(ca.certificate),))
    assert list(join.problems(config)) == []
    secret = bootstrap_token.secret_of(token, expires=1_750_000_000.0, description="d")
    assert (secret.metadata.name, secret.metadata.namespace) == (f"bootstrap-token-{token.id}", "kube-system")
    data = {name: base64.b64decode(value).decode() for name, value in secret.data.items()}
    assert data["token-secret"] == token.secret
    assert times.parse(data["expiration"]) == 1_750_000_000.0
    assert data["usage-bootstrap-authentication"] == "true"
