"""Continue tokens: where the next page of a list starts, and at which revision (Kubernetes: "Retrieving large results
sets in chunks").

A token is opaque to clients. It holds the revision of the first page, so that all pages show the same moment, and the
last key that was given out. Revision -1 means "whatever is current": the offer to a client whose moment is forgotten.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import orjson
from msgspec import Struct

from kube import status
from kube.status import ApiError, Reason

CURRENT = -1


class ContinueToken(Struct, frozen=True):
    """The revision of the list and the key after which the next page starts."""

    revision: int
    start_after: str

    def encode(self) -> str:
        """The token's text."""
        data = orjson.dumps({"v": "meta.k8s.io/v1", "rv": self.revision, "after": self.start_after})
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> ContinueToken:
        """The token of a text. ApiError 400 if the server never gave it out."""
        try:
            data = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            revision, after = data["rv"], data["after"]
        except (binascii.Error, ValueError, KeyError, TypeError):
            revision, after = None, None
        if not isinstance(revision, int) or not isinstance(after, str):
            raise status.bad_request("continue key is not valid: wanted the token of the page before, unchanged")
        return cls(revision, after)


class ContinueExpiredError(ApiError):
    """410: the moment of a paged list is forgotten; carries a token that goes on from the present."""

    def __init__(self, token: ContinueToken) -> None:
        super().__init__(
            410,
            Reason.EXPIRED,
            "The provided continue parameter is too old to display a consistent list result. Start a new list without "
            "it, or go on with the continue token of this response: what was created, changed or deleted since the "
            "first page may then be missing or doubled.",
        )
        self.token = token

    def to_status(self) -> dict[str, Any]:
        """The Status, with the fresh token in its metadata."""
        return {**super().to_status(), "metadata": {"continue": self.token.encode()}}
