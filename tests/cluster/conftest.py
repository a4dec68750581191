"""One cluster for all tests of this directory, and a namespace for each of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.cluster.real_cluster")

from tests.cluster import real_cluster  # noqa: E402 (after its asserts are made to explain themselves)
from tests.cluster.real_cluster import Cluster, eventually  # noqa: E402

_numbers = itertools.count(1)
_running: list[Cluster] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = real_cluster.missing()
    # The shared cluster takes ports and bridges that other tests need: whoever uses it comes last.
    items.sort(key=lambda item: "tests/cluster/" in str(item.path) and "cluster" in getattr(item, "fixturenames", ()))
    for item in items:
        if "tests/cluster/" in str(item.path):
            item.add_marker(pytest.mark.cluster)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        for cluster in _running:
            report.sections.append((f"logs of the cluster in {cluster.root}", cluster.logs()))
    return report


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that most tests share: up, with the example application and the tests' image."""
    made = Cluster()
    _running.append(made)
    try:
        made.first_up = made.up("--example")
        made.load_image()
        yield made
        eventually(
            lambda: [n.metadata.name for n in made.core.list_namespace().items if n.metadata.name.startswith("t-")],
            lambda names: not names,
            timeout=60,
            what="the tests' namespaces are gone",
        )
    finally:
        made.remove()
        _running.remove(made)


@pytest.fixture
def no_cluster() -> Iterator[Cluster]:
    """A place for a cluster that the test itself brings up, or tries to."""
    made = Cluster()
    _running.append(made)
    try:
        yield made
    finally:
        made.remove()
        _running.remove(made)


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test; what is in it is removed with it."""
    name = f"t-{next(_numbers)}"
    cluster.core.create_namespace({"metadata": {"name": name, "annotations": {"test": request.node.name}}})
    # A pod needs its namespace's service account.
    eventually(lambda: cluster.core.read_namespaced_service_account("default", name), what="the service account")
    yield name
    cluster.core.delete_namespace(name)


@pytest.fixture
def kubectl() -> None:
    """Skips where kubectl is missing or too old."""
    reason = real_cluster.kubectl_missing()
    if reason:
        pytest.skip(reason)
