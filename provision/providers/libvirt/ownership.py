"""Whose the things of a lab's name are: two labs may have the same name, and be different ones.

A domain has its lab's id in its metadata; storage pools cannot have any, so a lab's pool and network have the lab's id
as their UUID.
"""

from __future__ import annotations

import shlex

from kube.errors import KtoolError
from provision.lab_state import LabState


def require_same_lab(what: str, *, lab: str, other: str, state: LabState) -> None:
    """KtoolError if `what`, which has the lab's name and the id `other`, is another lab's than this one."""
    if other and other == state.id:
        return
    mend = "give this lab a name of its own in the inventory (ktool_lab: another-name)"
    if other:
        folder, file = shlex.quote(str(state.path)), shlex.quote(str(state.id_file))
        mend += (
            f". If it is this lab, whose folder was lost, put its id back, and `ktool lab destroy` removes it: "
            f"mkdir -p -m 700 {folder}; echo {other} >{file}"
        )
    raise KtoolError(
        f"libvirt has another lab of the name {lab}",
        found=f"{what} has the lab id {other or 'of none'}",
        wanted=f"{state.id}, this lab's" if state.id else "a name that is free: nothing was made for this lab yet",
        mend=mend,
    )
