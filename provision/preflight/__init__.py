"""Preflight: may machines become a cluster, each for itself (`machine`) and together (`lab`)?"""

from provision.preflight.machine import (
    MEMORY_AVAILABLE,
    MIB,
    PACKAGES,
    Finding,
    PreflightFailed,
    Severity,
    Wanted,
    check,
    require,
)

__all__ = [
    "MEMORY_AVAILABLE",
    "MIB",
    "PACKAGES",
    "Finding",
    "PreflightFailed",
    "Severity",
    "Wanted",
    "check",
    "require",
]
