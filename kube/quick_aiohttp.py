"""aiohttp, imported without the system's certificate authorities.

aiohttp makes a TLS context with all of them (some 140 certificates to parse) as soon as it is imported. ktool verifies
servers by the cluster's own CA, in contexts of its own, and never uses that one; on an emulated machine it costs two
seconds for each process. Whoever imports this module first spares them; otherwise nothing differs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["aiohttp"]

# Where OpenSSL looks for certificate authorities.
_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@contextmanager
def _no_system_authorities() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with _no_system_authorities():
    import aiohttp
