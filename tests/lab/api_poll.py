"""Somebody who asks a cluster's API again and again while something is done to it, and notes how long it was silent."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import yaml

PAUSE_SECONDS = 0.1
# Longer than any silence that a test allows: one who gave up and asked again would not see how long it was.
REQUEST_SECONDS = 30.0
LEASES = ("kube-scheduler", "kube-controller-manager")


class Poll:
    """Asks in a thread, over a new connection each time as a new kubectl does; a context manager.

    `silence` is the longest time in seconds from one good answer to the next, `failures` are what became of
    requests that got none.
    """

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.silence = 0.0
        self.answers = 0
        self.failures: list[str] = []
        self.seen: list[Any] = []  # what was answered, each new thing once

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(2 * REQUEST_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        last = time.monotonic()
        while True:
            try:
                found = self._ask()
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failures.append(f"{error or type(error).__name__}")
            else:
                now = time.monotonic()
                self.silence, last = max(self.silence, now - last), now
                self.answers += 1
                if found is not None and (not self.seen or self.seen[-1] != found):
                    self.seen.append(found)
            if self._end.wait(PAUSE_SECONDS):
                self.silence = max(self.silence, time.monotonic() - last)
                return


class Api:
    """The API server that a kubeconfig names, asked without any of ktool's own clients, which would try again."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        url = urlsplit(cluster["server"])
        assert url.hostname is not None
        self._address = (url.hostname, url.port)
        self._tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        pair = folder / "poll.pem"
        pair.touch(mode=0o600)
        pair.write_bytes(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        self._tls.load_cert_chain(pair)

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One request over a connection of its own. OSError, HTTPException or ValueError unless it went well."""
        connection = http.client.HTTPSConnection(*self._address, context=self._tls, timeout=REQUEST_SECONDS)
        try:
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise ValueError(f"{answer.status}: {text[:300]!r}")
        found: dict[str, Any] = json.loads(text)
        return found

    def read(self) -> None:
        """A read that the store has a part in."""
        self.ask("GET", "/api/v1/namespaces/default")

    def write(self) -> None:
        """A write, which takes a majority of etcd's members."""
        self.ask("PATCH", "/api/v1/namespaces/default", {"metadata": {"annotations": {"poll": str(time.time())}}})

    def leaders(self) -> dict[str, str]:
        """The machines that schedule and control."""
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/"
        leases = (self.ask("GET", path + name) for name in LEASES)
        return {
            one["metadata"]["name"]: str(one["spec"].get("holderIdentity") or "").rpartition("_")[0] for one in leases
        }
