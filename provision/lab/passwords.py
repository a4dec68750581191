"""Passwords that the user was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from provision.ssh.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Passwords:
    """Passwords that the user was asked for; for machines of which the inventory says none. Never shown."""

    login: str = field(default="", repr=False)
    become: str = field(default="", repr=False)

    def given_to(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint with these passwords where it has none."""
        return replace(
            endpoint,
            password=endpoint.password or self.login,
            become_password=endpoint.become_password or self.become or self.login,
        )


NO_PASSWORDS = Passwords()
