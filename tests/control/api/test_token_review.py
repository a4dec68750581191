"""TokenReview: tokens are good for their audiences."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from control.api.authentication.chain import AuthenticatorChain
from control.api.authentication.service_account import ServiceAccountTokens
from control.api.subresource import ServerAssets
from kube import pki
from kube.clock import SystemClock
from tests.control.api.server_under_test import Server

ISSUER = "https://issuer.example"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


@pytest.fixture
async def tokens(server: Server, tmp_path: Path) -> dict[str, str]:
    """Tokens of one account by what they are for."""
    environment = server.api.environment
    key = pki.create_key()
    pki.save_key(key, tmp_path / "sa.key")
    environment.assets = ServerAssets(ssl.create_default_context, tmp_path / "sa.key", ISSUER)
    environment.authenticator = AuthenticatorChain(
        (ServiceAccountTokens(key, ISSUER, environment.reader, SystemClock()),)
    )
    await server.call("POST", ACCOUNTS, {"metadata": {"name": "robot"}})
    found = {}
    for name, audiences in (("api", []), ("vault", ["vault"]), ("both", [ISSUER, "vault"])):
        answer = await server.call("POST", f"{ACCOUNTS}/robot/token", {"spec": {"audiences": audiences}})
        found[name] = answer["status"]["token"]
    return {**found, "bad": found["api"][:-4] + "AAAA", "none": "hello"}


async def review(server: Server, token: str, *audiences: str) -> Any:
    spec: dict[str, Any] = {"token": token, **({"audiences": [*audiences]} if audiences else {})}
    return (await server.call("POST", REVIEWS, {"spec": spec}))["status"]


@pytest.mark.parametrize(
    ("token", "asked", "good_for"),
    [
        ("api", (), [ISSUER]),
        ("api", (ISSUER, "other"), [ISSUER]),
        ("api", ("vault",), None),
        ("vault", (), None),
        ("vault", ("vault",), ["vault"]),
        ("vault", ("other", "vault"), ["vault"]),
        ("vault", ("other",), None),
        ("both", ("vault", ISSUER), ["vault", ISSUER]),
        ("bad", (), None),
        ("bad", (ISSUER,), None),
        ("none", (), None),
        ("none", ("vault",), None),
    ],
)
async def test_a_token_is_good_for_its_audiences(
    server: Server, tokens: dict[str, str], token: str, asked: tuple[str, ...], good_for: list[str] | None
) -> None:
    found = await review(server, tokens[token], *asked)
    assert found.get("authenticated", False) is (good_for is not None)
    assert found.get("audiences") == good_for
    if good_for:
        assert found["user"]["username"] == "system:serviceaccount:default:robot"
    else:
        assert found["error"]
