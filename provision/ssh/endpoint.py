"""Where and how a machine answers SSH."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One SSH server and who we are to it.

    Host keys are always checked: against `host_keys` ("ssh-ed25519 AAAA...", pinned) if there are any, otherwise
    against the `known_hosts` files (empty: the user's and the system's). `jump` is the server to pass through first.
    `agent` allows the user's SSH agent and default keys. Passwords are for this process only; they are never shown.
    `local`: this is the machine that we are on, and no SSH is needed.
    """

    name: str
    address: str
    port: int = 22
    user: str = "root"
    identity_files: tuple[Path, ...] = ()
    host_keys: tuple[str, ...] = ()
    known_hosts: tuple[Path, ...] = ()
    jump: Endpoint | None = None
    agent: bool = True
    become: bool = True
    password: str = field(default="", repr=False)
    become_password: str = field(default="", repr=False)
    connect_timeout: float = 15.0
    local: bool = False
