"""Plugins from entry points, and what a failing one does: its pod waits, nobody else is harmed."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from control.scheduler import registry
from control.scheduler.decision import Decision, decide
from control.scheduler.plugin import PluginError, Verdict
from control.scheduler.pod_info import PodInfo, pod_info
from control.scheduler.row_vectors import Mask, Vector
from control.scheduler.snapshot import Snapshot
from tests.control.scheduler.build import node, pod


class OnlyB:
    """A filter as somebody else would write it."""

    name = "OnlyB"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        return Verdict(np.array([row.name == "b" for row in snapshot.rows]), "node(s) were not called b")


class PrefersA:
    name, weight = "PrefersA", 10.0

    def __call__(self, info: PodInfo, snapshot: Snapshot, possible: Mask) -> Vector | None:
        return np.array([100.0 * (row.name == "a") for row in snapshot.rows])


class Odd:
    """Gives whatever it is made with, or raises it."""

    name, weight = "Odd", 1.0

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, *_: object) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def snapshot() -> Snapshot:
    found = Snapshot()
    for name in ("a", "b", "c"):
        found.set_node(node(name))
    return found


def choose(filters: tuple[Any, ...], scores: tuple[Any, ...]) -> Decision:
    return decide(pod_info(pod()), snapshot(), filters, scores, random.Random(1))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that distributions bring entry points: (group, name, module attribute)."""
    module = ModuleType("somebody_elses_plugins")
    module.OnlyB, module.PrefersA = OnlyB, PrefersA  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def install(*points: tuple[str, str, str]) -> None:
        found = [
            metadata.EntryPoint(name, f"{module.__name__}:{attribute}", group) for group, name, attribute in points
        ]
        monkeypatch.setattr(metadata, "entry_points", lambda *, group: [p for p in found if p.group == group])

    return install


def test_entry_points_join_the_default_plugins(installed: Callable[..., None]) -> None:
    installed((registry.FILTERS_GROUP, "only-b", "OnlyB"), (registry.SCORES_GROUP, "a", "PrefersA"))
    filters, scores = registry.extra_filters(), registry.extra_scores()
    assert [f.name for f in filters] == ["OnlyB"]
    assert choose(registry.default_filters() + filters, registry.default_scores()).node == "b"
    assert choose(registry.default_filters(), registry.default_scores() + scores).node == "a"


def test_no_entry_points_no_extra_plugins() -> None:
    assert registry.extra_filters() == ()
    assert registry.extra_scores() == ()


def test_a_filter_that_cannot_be_loaded_refuses_to_be_overlooked(
    installed: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    installed((registry.FILTERS_GROUP, "quota", "Missing"), (registry.SCORES_GROUP, "taste", "Missing"))
    assert registry.extra_scores() == ()
    with pytest.raises(PluginError, match='running plugin "quota": it cannot be loaded: AttributeError'):
        choose(registry.extra_filters(), ())
    assert "quota" in caplog.text
    assert "taste" in caplog.text


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ValueError("boom"), 'running plugin "Odd": boom'),
        (Verdict(np.ones(2, np.bool_), ""), "its mask is bool(2,), not bool per node"),
        (Verdict(np.ones(3), ""), "its mask is float64(3,), not bool per node"),  # type: ignore[arg-type]
        (Verdict(np.zeros(3, np.bool_), lambda rows: 1 / 0), "division by zero"),  # type: ignore[arg-type, return-value]
    ],
)
def test_a_failing_filter_is_named(answer: Any, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        choose((Odd(answer),), ())
    assert message in str(caught.value)
    assert caught.value.plugin == "Odd"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (KeyError("zone"), "'zone'"),
        (np.ones(1), "found shape (1,)"),
        (np.array([1.0, np.nan, 2.0]), "not finite"),
        (np.array([1.0, np.inf, 2.0]), "not finite"),
    ],
)
def test_a_failing_score_is_named(answer: Any, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        choose((), (PrefersA(), Odd(answer)))
    assert message in str(caught.value)
    assert caught.value.plugin == "Odd"


def test_scores_below_zero_never_bring_a_refused_node_back() -> None:
    decision = choose((NotA(),), (Odd(np.array([-5.0, -1e6, -2e6])),))
    assert decision.node in ("b", "c")
    assert decision.refused[0].examples == ("a",)


class NotA:
    name = "NotA"

    def __call__(self, info: PodInfo, snapshot: Snapshot) -> Verdict | None:
        return Verdict(np.array([row.name != "a" for row in snapshot.rows]), "node(s) were called a")
