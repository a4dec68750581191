"""Where to, as people write it: `user@host:port`, `ssh://user@host:port`, `[2001:db8::1]:22`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from kube.errors import KtoolError


@dataclass(frozen=True, slots=True)
class Destination:
    """A host with what else was said; `user` empty and `port` 0 where nothing was."""

    host: str
    user: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Destination:
        """KtoolError if it is no destination. A password in it is refused: it would stand in the list of processes."""
        url = text if text.startswith("ssh://") else f"ssh://{text}"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or 0
        except ValueError:
            host, port, parts = "", 0, urlsplit("")
        if parts.password is not None:
            raise KtoolError(
                "a password does not belong into an SSH address",
                found=f"ssh://{parts.username}:...@{host}",
                wanted="ssh://USER@HOST[:PORT]",
                mend="leave it out: it is asked for; or use a key",
            )
        if not host or host.startswith("-") or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise KtoolError("this is no SSH address", found=repr(text), wanted="ssh://USER@HOST[:PORT]")
        return cls(host, unquote(parts.username or ""), port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        return f"{user}{host}:{self.port}" if self.port else f"{user}{host}"
