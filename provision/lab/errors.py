"""What may go wrong with one machine, whoever says it, as the one kind of error that stops only that machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kube.errors import KtoolError
from kube.status import ApiError


@contextmanager
def machine_errors(what: str) -> Iterator[None]:
    """Raise KtoolErrors as they are, and what the API server, the network or the operating system says as KtoolErrors
    that begin with `what`."""
    try:
        yield
    except KtoolError:
        raise
    except ApiError as error:
        raise KtoolError(f"{what}: the API server refused", found=error.message) from error
    except (ConnectionError, TimeoutError) as error:
        raise KtoolError(f"{what}: no connection", found=str(error) or type(error).__name__) from error
    except OSError as error:
        raise KtoolError(f"{what}: the system refused", found=str(error)) from error
