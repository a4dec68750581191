"""Who is asking: certificates, service-account tokens, bootstrap tokens, and everything that must not pass."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from control.api.attributes import ClientCertificate
from control.api.authentication.bootstrap_token import BootstrapTokenAuthenticator
from control.api.authentication.chain import AuthenticatorChain, CertificateAuthenticator
from control.api.authentication.service_account import SERVICE_ACCOUNTS, ServiceAccountTokens
from kube import kinds, pki, removed_nodes, times
from kube.clock import VirtualClock
from kube.status import ApiError
from tests.control.api.objects_in_memory import ObjectsInMemory

PODS, SECRETS = kinds.known("", "v1", "pods"), kinds.known("", "v1", "secrets")
ISSUER = "https://kubernetes.default.svc.cluster.local"
TOKEN = "abcdef.0123456789abcdef"


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def bootstrap_secret(**changes: str) -> dict[str, Any]:
    data = {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
        **changes,
    }
    return {
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "data": {k: base64.b64encode(v.encode()).decode() for k, v in data.items()},
    }


async def test_a_certificates_subject_is_user_and_groups() -> None:
    user = await CertificateAuthenticator(ObjectsInMemory()).authenticate({}, ClientCertificate("jane", ("dev", "ops")))
    assert user is not None
    assert (user.name, user.groups) == ("jane", ("dev", "ops"))
    assert await CertificateAuthenticator(ObjectsInMemory()).authenticate({}, None) is None


async def test_a_node_that_was_removed_has_to_join_anew() -> None:
    objects, clock = ObjectsInMemory(), VirtualClock()
    authenticator, ca = CertificateAuthenticator(objects), pki.create_ca(clock=clock)

    def certificate(name: str) -> ClientCertificate:
        pair = pki.issue_client(ca, name, organizations=("system:nodes",), clock=clock)
        not_before = f"{pair.certificate.not_valid_before_utc:%b %d %H:%M:%S %Y} GMT"
        return ClientCertificate(name, ("system:nodes",), not_before)

    first, other, jane = certificate("system:node:n1"), certificate("system:node:n2"), certificate("n1")
    await clock.advance(60)
    metadata = {
        "name": removed_nodes.object_name("n1"),
        "namespace": removed_nodes.NAMESPACE,
        "creationTimestamp": times.rfc3339(clock.time()),
    }
    assert await authenticator.authenticate({}, first)
    objects.put(removed_nodes.CONFIG_MAPS, {"metadata": metadata})
    with pytest.raises(ApiError, match="node n1 was removed") as refused:
        await authenticator.authenticate({}, first)
    assert refused.value.code == 401
    # others, and who only has the same name, are not meant
    assert await authenticator.authenticate({}, other)
    assert await authenticator.authenticate({}, jane)
    # nor is what the machine gets when it joins anew, at once
    assert await authenticator.authenticate({}, certificate("system:node:n1"))


async def test_a_bootstrap_token_names_its_groups() -> None:
    objects, clock = ObjectsInMemory(), VirtualClock()
    groups = "system:bootstrappers:lab, system:masters"
    expiration = times.rfc3339(clock.time() + 60)
    objects.put(SECRETS, bootstrap_secret(**{"auth-extra-groups": groups, "expiration": expiration}))
    authenticator = BootstrapTokenAuthenticator(objects, clock)
    user = await authenticator.authenticate(bearer(TOKEN), None)
    assert user is not None
    assert user.name == "system:bootstrap:abcdef"
    assert user.groups == ("system:bootstrappers", "system:bootstrappers:lab"), "no other group by a Secret's word"
    await clock.advance(61)
    with pytest.raises(ApiError, match="Unauthorized"):
        await authenticator.authenticate(bearer(TOKEN), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"token-secret": "f" * 16},
        {"usage-bootstrap-authentication": "false"},
        {"token-id": "zzzzzz"},
        {"expiration": "soon"},
    ],
)
async def test_a_bootstrap_token_that_the_secret_does_not_vouch_for(changes: dict[str, str]) -> None:
    objects = ObjectsInMemory()
    objects.put(SECRETS, bootstrap_secret(**changes))
    with pytest.raises(ApiError, match="Unauthorized"):
        await BootstrapTokenAuthenticator(objects, VirtualClock()).authenticate(bearer(TOKEN), None)


@pytest.fixture
def cluster() -> tuple[ServiceAccountTokens, ObjectsInMemory, VirtualClock]:
    objects, clock = ObjectsInMemory(), VirtualClock()
    objects.put(SERVICE_ACCOUNTS, {"metadata": {"namespace": "a", "name": "robot", "uid": "u1"}})
    objects.put(PODS, {"metadata": {"namespace": "a", "name": "p", "uid": "pod-1"}})
    return ServiceAccountTokens(pki.create_key(), ISSUER, objects, clock), objects, clock


Cluster = tuple[ServiceAccountTokens, ObjectsInMemory, VirtualClock]


async def test_a_service_accounts_token(cluster: Cluster) -> None:
    tokens, objects, clock = cluster
    text, expires = tokens.issue("a", "robot", "u1", seconds=600, bound={"pod": {"name": "p", "uid": "pod-1"}})
    assert expires == int(clock.time()) + 600
    user = await tokens.authenticate(bearer(text), None)
    assert user is not None
    assert user.name == "system:serviceaccount:a:robot"
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:a")
    assert user.extra["authentication.kubernetes.io/pod-name"] == ("p",)
    objects.remove(PODS, "a", "p")
    with pytest.raises(ApiError):
        await tokens.authenticate(bearer(text), None)


async def test_a_token_dies_with_its_time_its_account_and_another_key(cluster: Cluster) -> None:
    tokens, objects, clock = cluster
    text, _ = tokens.issue("a", "robot", "u1", seconds=600)
    stranger = ServiceAccountTokens(pki.create_key(), ISSUER, objects, clock)
    assert stranger.review(text) is None
    assert tokens.review(text, ["somebody-else"]) is None
    assert tokens.review(text) is not None
    await clock.advance(601)
    assert tokens.review(text) is None
    fresh, _ = tokens.issue("a", "robot", "u1", seconds=600)
    objects.put(SERVICE_ACCOUNTS, {"metadata": {"namespace": "a", "name": "robot", "uid": "made-anew"}})
    assert tokens.review(fresh) is None


async def test_the_chain_refuses_unknown_tokens_and_lets_nobody_be_anonymous_by_mistake(cluster: Cluster) -> None:
    tokens, objects, clock = cluster
    chain = AuthenticatorChain(
        [CertificateAuthenticator(ObjectsInMemory()), BootstrapTokenAuthenticator(objects, clock), tokens]
    )
    assert await chain.authenticate({}, None) is None
    for token in ("x", "a.b.c", TOKEN):
        with pytest.raises(ApiError, match="Unauthorized"):
            await chain.authenticate(bearer(token), None)
