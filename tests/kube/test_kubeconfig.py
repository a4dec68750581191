from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from kube import kubeconfig
from kube.kubeconfig import Connection, KubeconfigError

CA, CERT, KEY = b"-ca-", b"-cert-", b"-key-"
SERVER = "https://127.0.0.1:6443"


def config(**changes: Any) -> dict[str, Any]:
    data = kubeconfig.build(server=SERVER, ca_data=CA, client_cert=CERT, client_key=KEY, namespace="shop")
    data["clusters"][0]["cluster"].update(changes.pop("cluster", {}))
    data["users"][0]["user"].update(changes.pop("user", {}))
    data["contexts"][0]["context"].update(changes.pop("context", {}))
    return data | {key.replace("_", "-"): value for key, value in changes.items()}


def test_what_was_built_saved_and_read_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config"
    kubeconfig.save(path, config())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert kubeconfig.connect(path) == Connection(SERVER, CA, CERT, KEY, "", "shop")


def test_a_token_instead_of_a_certificate() -> None:
    data = kubeconfig.build(server=SERVER, ca_data=CA, token="secret", user="bot", cluster="lab")
    assert data["current-context"] == "bot@lab"
    assert kubeconfig.resolve(data) == Connection(SERVER, CA, token="secret")


def test_secrets_are_not_shown() -> None:
    shown = repr(Connection(SERVER, CA, CERT, KEY, token="hush"))
    assert "hush" not in shown
    assert "key" not in shown.replace("client_key", "")


def test_files_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    for name, content in (("ca", CA), ("cert", CERT), ("key", KEY), ("token", b"secret\n")):
        (tmp_path / "pki" / name).write_bytes(content)
    data = {
        "clusters": [{"name": "c", "cluster": {"server": SERVER, "certificate-authority": "pki/ca"}}],
        "users": [
            {
                "name": "u",
                "user": {
                    "client-certificate": "pki/cert",
                    "client-key": str(tmp_path / "pki" / "key"),
                    "tokenFile": "pki/token",
                },
            }
        ],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    assert kubeconfig.resolve(data, source=tmp_path / "config") == Connection(SERVER, CA, CERT, KEY, "secret")


def test_another_context_than_the_current_one() -> None:
    data = config(current_context="nowhere")
    data["contexts"].append({"name": "anonymous", "context": {"cluster": "ktool"}})
    assert kubeconfig.resolve(data, context="anonymous") == Connection(SERVER, CA)


@pytest.mark.parametrize(
    ("data", "field", "found", "wanted"),
    [
        (config(current_context=""), "current-context", "nothing", "one of the contexts"),
        (config(current_context=7), "current-context", "a number", "text"),
        (config(current_context="x"), "contexts", "'admin@ktool'", "an entry named 'x'"),
        (config(contexts=None), "contexts", "nothing", "an entry named 'admin@ktool'"),
        (config(contexts="x"), "contexts", "text", "a list of named entries"),
        (config(clusters=[]), "clusters", "nothing", "an entry named 'ktool'"),
        (config(users=[{"name": "bob"}]), "users", "'bob'", "an entry named 'admin'"),
        (config(cluster={"server": None}), "clusters[0].cluster.server", "''", "a URL"),
        (config(cluster={"server": "10.0.0.1:6443"}), "clusters[0].cluster.server", "'10.0.0.1:6443'", "a URL"),
        (config(cluster={"server": "https://h:x"}), "clusters[0].cluster.server", "'https://h:x'", "a URL"),
        (config(cluster={"proxy-url": "http://p"}), "clusters[0].cluster.proxy-url", "a value", "ktool does not"),
        (
            config(cluster={"certificate-authority-data": "%"}),
            "clusters[0].cluster.certificate-authority-data",
            "something else",
            "base64",
        ),
        (
            config(cluster={"certificate-authority-data": "", "certificate-authority": "/none"}),
            "clusters[0].cluster.certificate-authority",
            "/none: No such file or directory",
            "a file",
        ),
        (config(user={"client-key-data": ""}), "users[0].user.client-key", "nothing", "both"),
        (config(user={"client-certificate-data": ""}), "users[0].user.client-certificate", "nothing", "both"),
        (config(user={"exec": {"command": "x"}}), "users[0].user.exec", "a value", "a client certificate or a token"),
        (config(user={"token": ["secret"]}), "users[0].user.token", "a list", "text"),
    ],
)
def test_an_error_names_file_and_field(data: dict[str, Any], field: str, found: str, wanted: str) -> None:
    with pytest.raises(KubeconfigError) as caught:
        kubeconfig.resolve(data, source="/home/me/config")
    error = caught.value
    assert error.what == f"kubeconfig /home/me/config: {field}"
    assert error.found == found
    assert wanted in error.wanted


@pytest.mark.parametrize(
    ("content", "what", "found"),
    [
        (b"a: [", "is not YAML", "line 1, column 5"),
        (b"token: hush\n\tx", "is not YAML", "line 2"),
        (b"\xff\xfe\x00", "is not YAML", ""),
        (b"hush", "is no kubeconfig", "text"),
        (b"", "is no kubeconfig", "nothing"),
    ],
)
def test_what_is_no_kubeconfig(tmp_path: Path, content: bytes, what: str, found: str) -> None:
    path = tmp_path / "config"
    path.write_bytes(content)
    with pytest.raises(KubeconfigError) as caught:
        kubeconfig.load(path)
    assert what in caught.value.what
    assert str(path) in caught.value.what
    assert found in caught.value.found
    assert "hush" not in str(caught.value)


def test_no_kubeconfig(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError) as caught:
        kubeconfig.load(tmp_path / "none")
    assert "KUBECONFIG" in caught.value.mend
    with pytest.raises(KubeconfigError, match="cannot read"):
        kubeconfig.load(tmp_path)


def test_which_file(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.touch()
    assert kubeconfig.default_path({"HOME": "/home/me"}) == Path("/home/me/.kube/config")
    assert kubeconfig.default_path({"KUBECONFIG": f"{there}:{here}"}) == here
    assert kubeconfig.default_path({"KUBECONFIG": f"{there}:"}) == there


def test_the_servers_name_where_the_url_leads_through_a_tunnel() -> None:
    found = kubeconfig.resolve(config(cluster={"tls-server-name": "api.lab"}))
    assert found.tls_server_name == "api.lab"
    assert kubeconfig.resolve(config()).tls_server_name == ""
