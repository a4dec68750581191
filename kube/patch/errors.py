"""Why a patch could not be applied: it makes no sense by itself, or it does not fit the object."""

from __future__ import annotations

from kube.errors import KtoolError


class PatchError(KtoolError):
    """A patch that could not be applied."""


class MalformedPatchError(PatchError):
    """The patch makes no sense, whatever it is applied to (the API answers 400 BadRequest)."""


class PatchFailedError(PatchError):
    """The patch makes sense but not for this object: a path is not there, a test fails (the API answers 422)."""
