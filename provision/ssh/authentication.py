"""Being let in: by keys, the agent, a passphrase, a password, or what the server asks.

In the order in which it bothers nobody: keys that the inventory names, the agent's, the user's own, and only then
whatever somebody has to type. Servers count attempts (OpenSSH: MaxAuthTries, 6), so what is named comes first and
nothing is tried twice.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from provision.ssh.endpoint import Endpoint
from provision.ssh.errors import AuthenticationFailed

if TYPE_CHECKING:
    from paramiko import Agent, PKey, Transport

Ask = Callable[[str], str | None]
"""Asks the user for a secret by the given question; None if nobody can be asked or nothing was said."""

USERS_KEYS = (Path("~/.ssh/id_ed25519"), Path("~/.ssh/id_ecdsa"), Path("~/.ssh/id_rsa"))
PASSWORD_TRIES = 3


def authenticate(transport: Transport, endpoint: Endpoint, ask: Ask | None) -> None:
    """Log in on a connection whose host key has been checked. AuthenticationFailed says what was tried."""
    _Login(transport, endpoint, ask).run()


class _Login:
    def __init__(self, transport: Transport, endpoint: Endpoint, ask: Ask | None) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._ask = ask
        self._allowed: list[str] = []
        self._tried: list[str] = []

    def run(self) -> None:
        from paramiko import BadAuthenticationType, SSHException

        try:
            self._transport.auth_none(self._endpoint.user)
        except BadAuthenticationType as error:
            self._allowed = list(error.allowed_types)
        except (SSHException, EOFError) as error:
            raise self._failed(str(error)) from error
        if self._transport.is_authenticated():
            return
        try:
            if not (self._by_keys() or self._by_password() or self._by_questions()):
                raise self._failed("")
        except (SSHException, EOFError) as error:
            raise self._failed(str(error) or type(error).__name__) from error

    def _by_keys(self) -> bool:
        from paramiko import Agent

        if "publickey" not in self._allowed:
            return False
        agent = Agent() if self._endpoint.agent else None
        try:
            for label, key in self._keys(agent):
                if self._try(label, functools.partial(self._transport.auth_publickey, self._endpoint.user, key)):
                    return True
                if "publickey" not in self._allowed:  # it was one of several ways that the server wants
                    return False
            return False
        finally:
            if agent is not None:
                agent.close()

    def _keys(self, agent: Agent | None) -> Iterator[tuple[str, PKey]]:
        """Keys to try, each once; passphrases are asked for last."""
        from paramiko import PasswordRequiredException

        seen: set[bytes] = set()
        locked: list[Path] = []
        own = USERS_KEYS if self._endpoint.agent else ()

        def fresh(key: PKey) -> bool:
            new = key.asbytes() not in seen
            seen.add(key.asbytes())
            return new

        def files(paths: Sequence[Path], *, named: bool) -> Iterator[tuple[str, PKey]]:
            for path in (path.expanduser() for path in paths):
                try:
                    key = load_key(path)
                except PasswordRequiredException:
                    locked.append(path)
                except (OSError, ValueError) as error:
                    if named:
                        self._tried.append(f"key {path} ({getattr(error, 'strerror', None) or error})")
                else:
                    if fresh(key):
                        yield f"key {path}", key

        yield from files(self._endpoint.identity_files, named=True)
        if agent is not None:
            named = {public_data(path) for path in self._endpoint.identity_files}
            for key in sorted(agent.get_keys(), key=lambda key: key.asbytes() not in named):
                if fresh(key):
                    yield f"agent's key {key.comment or key.get_name()}", key
        yield from files([path for path in own if path not in self._endpoint.identity_files], named=False)
        for path in locked:
            if public_data(path) in seen:
                continue  # the agent has it unlocked
            unlocked = self._unlock(path)
            if unlocked is not None and fresh(unlocked):
                yield f"key {path}", unlocked

    def _unlock(self, path: Path) -> PKey | None:
        for _ in range(PASSWORD_TRIES):
            passphrase = self._ask(f"Passphrase for {path}: ") if self._ask is not None else None
            if not passphrase:
                self._tried.append(f"key {path} (its passphrase was not given)")
                return None
            try:
                return load_key(path, passphrase)
            except ValueError:
                continue
        self._tried.append(f"key {path} (wrong passphrase)")
        return None

    def _by_password(self) -> bool:
        if "password" not in self._allowed:
            return False
        user = self._endpoint.user
        for password in self._passwords():
            attempt = functools.partial(self._transport.auth_password, user, password, fallback=False)
            if self._try("password", attempt):
                return True
        return False

    def _passwords(self) -> Iterator[str]:
        if self._endpoint.password:
            yield self._endpoint.password
            return
        for _ in range(PASSWORD_TRIES):
            password = self._ask(self._question("Password")) if self._ask is not None else None
            if not password:
                return
            yield password

    def _by_questions(self) -> bool:
        """Keyboard-interactive: the first hidden question is taken for the password's, others are passed on."""
        if "keyboard-interactive" not in self._allowed:
            return False
        # Servers that offer both ask the same PAM for the same password: wrong once is wrong twice.
        unused = self._endpoint.password if "password" not in self._tried else ""
        if not unused and self._ask is None:
            return False

        def answer(title: str, instructions: str, questions: Sequence[tuple[str, bool]]) -> list[str]:
            nonlocal unused
            answers = []
            for question, echo in questions:
                if unused and not echo:
                    answers.append(unused)
                    unused = ""
                else:
                    answers.append((self._ask(self._question(question)) if self._ask is not None else None) or "")
            return answers

        return self._try("keyboard-interactive", lambda: self._transport.auth_interactive(self._endpoint.user, answer))

    def _try(self, label: str, attempt: Callable[[], Sequence[str]]) -> bool:
        """One attempt. A server may want more than one way (AuthenticationMethods): then the list of what remains is
        taken over and the attempt counts as not enough."""
        from paramiko import AuthenticationException

        if label not in self._tried:
            self._tried.append(label)
        try:
            further = attempt()
        except AuthenticationException:
            if not self._transport.is_active():
                raise
            return False
        if further:
            self._allowed = list(further)
            return False
        return self._transport.is_authenticated()

    def _question(self, what: str) -> str:
        return f"{what.strip().rstrip(':')} for {self._endpoint.user}@{self._endpoint.name}: "

    def _failed(self, detail: str) -> AuthenticationFailed:
        endpoint = self._endpoint
        tried = ", ".join(self._tried) or "nothing to try"
        accepts = f"; the server accepts {', '.join(self._allowed)}" if self._allowed else ""
        return AuthenticationFailed(
            endpoint.name,
            f"does not let {endpoint.user} in",
            found=f"tried {tried}{accepts}{f' ({detail})' if detail else ''}",
            wanted=f"a key or password of {endpoint.user}@{endpoint.address}:{endpoint.port}",
            mend=f"ssh-copy-id -p {endpoint.port} {endpoint.user}@{endpoint.address}, name a key with "
            "ansible_ssh_private_key_file, or set ansible_user",
        )


def load_key(path: Path, passphrase: str | None = None) -> PKey:
    """A private key file. PasswordRequiredException if it is locked, OSError or ValueError if it cannot be used."""
    from paramiko import PasswordRequiredException, PKey, SSHException
    from paramiko.pkey import UnknownKeyType

    try:
        # cryptography, to which the passphrase goes as it is, wants bytes, whatever the types say
        word = passphrase.encode() if passphrase is not None else None
        key: PKey = PKey.from_path(path, word)  # type: ignore[arg-type]
    except PasswordRequiredException:
        raise
    except TypeError as error:  # cryptography's word for a missing passphrase
        raise PasswordRequiredException(str(error)) from error
    except (UnknownKeyType, SSHException) as error:
        raise ValueError(f"no usable private key: {error}") from error
    return key


def public_data(path: Path) -> bytes:
    """The public key beside a private one, in the form of the wire; empty if there is none."""
    try:
        fields = path.expanduser().with_name(path.name + ".pub").read_text().split()
        return base64.b64decode(fields[1], validate=True)
    except (OSError, IndexError, ValueError):
        return b""
