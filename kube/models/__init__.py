"""Typed objects of the Kubernetes API, a module per group and version (`core_v1`, `apps_v1`, `meta_v1`, ...).

Everything else in this folder is generated when the package is built (scripts/build_models.py) and not committed.
Fields keep their JSON names; Python's keywords get a trailing underscore. Lists and maps default to empty, everything
else to None; defaults are omitted on encoding, as Go's `omitempty` does.
"""
