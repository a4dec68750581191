"""A lab's own SSH key, which the machines that ktool makes let in."""

from __future__ import annotations

import os
from pathlib import Path

from kube.errors import KtoolError
from kube.files import write_atomic, write_secret


def ensure_key(path: Path, *, comment: str = "ktool") -> str:
    """Have an ed25519 key in `path` (0600, no passphrase) and its public half beside it (.pub); the public line.

    A key that is there stays. KtoolError if the file holds something else.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(
            path,
            Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            ),
        )
    os.chmod(path, 0o600)  # OpenSSH refuses a key that others may read
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise KtoolError(
            "the lab's SSH key cannot be read",
            found=f"{path}: {error}",
            wanted="a private key in OpenSSH's format without a passphrase",
            mend=f"remove {path}; machines that know only the old key have to be made anew",
        ) from None
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    public = path.with_name(path.name + ".pub")
    text = f"{line} {comment}"
    if not public.exists() or public.read_text().strip() != text:
        write_atomic(public, f"{text}\n".encode())
    return text
