"""`ktool up` beside what starts a cluster: whom it invites. (For real: tests/cluster/test_up.py, test_join.py.)"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ktool.commands import token, up
from ktool.session import Session
from kube import status

SERVER = "https://192.0.2.1:6443"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (["{}", "{}"], {"joinFiles": ["{}", "{}"]}),
        (status.service_unavailable("etcd has no leader"), {"joinFiles": [], "notInvited": "etcd has no leader"}),
        (ConnectionError("reset by peer"), {"joinFiles": [], "notInvited": "reset by peer"}),
    ],
)
async def test_a_cluster_is_up_also_where_nobody_can_be_invited_yet(
    monkeypatch: pytest.MonkeyPatch, answer: list[str] | Exception, found: dict[str, object]
) -> None:
    async def join_files(session: Session, nodes: Sequence[str], *, server: str, description: str) -> list[str]:
        assert (list(nodes), server) == (["w1", "w2"], SERVER)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(token, "join_files", join_files)
    assert await up._invitations(Session(kubeconfig=None, data_dir=Path("data")), ["w1", "w2"], SERVER) == found
