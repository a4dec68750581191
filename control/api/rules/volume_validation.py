"""What a pod's volumes may say (Kubernetes concept: Volumes)."""

from __future__ import annotations

from typing import Any

from control.api.resource import Object
from control.api.rules import fields
from kube import names
from kube.errors import FieldError

HOST_PATH_TYPES = (
    "",
    "DirectoryOrCreate",
    "Directory",
    "FileOrCreate",
    "File",
    "Socket",
    "CharDevice",
    "BlockDevice",
)
PROJECTED = ("configMap", "secret", "downwardAPI", "serviceAccountToken", "clusterTrustBundle")


def validate_volumes(volumes: Any, path: str) -> list[FieldError]:
    """Findings about `spec.volumes`."""
    errors = fields.unique(volumes or (), path, "name")
    for volume, at in fields.each(volumes, path):
        errors += fields.name(volume.get("name"), f"{at}.name", names.dns1123_label)
        sources = [k for k in volume if k != "name"]
        if len(sources) > 1:
            errors += [
                FieldError.forbidden(f"{at}.{s}", "may not specify more than 1 volume type") for s in sources[1:]
            ]
        errors += _validate_source(volume, at)
    return errors


def _validate_source(volume: Object, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    if (source := volume.get("hostPath")) is not None:
        at = f"{path}.hostPath"
        errors += fields.required(source, at, "path")
        if ".." in (source.get("path") or "").split("/"):
            errors.append(FieldError.invalid(f"{at}.path", source["path"], "must not contain '..'"))
        errors += fields.one_of(source, at, "type", HOST_PATH_TYPES)
    if (source := volume.get("configMap")) is not None:
        errors += fields.required(source, f"{path}.configMap", "name")
        errors += _validate_files(source, f"{path}.configMap")
    if (source := volume.get("secret")) is not None:
        errors += fields.required(source, f"{path}.secret", "secretName")
        errors += _validate_files(source, f"{path}.secret")
    if (source := volume.get("emptyDir")) is not None:
        errors += fields.one_of(source, f"{path}.emptyDir", "medium", ("", "Memory"))
        if source.get("sizeLimit") is not None:
            errors += fields.quantities({"sizeLimit": source["sizeLimit"]}, f"{path}.emptyDir")
    if (source := volume.get("downwardAPI")) is not None:
        errors += _validate_files(source, f"{path}.downwardAPI")
    if (source := volume.get("projected")) is not None:
        errors += _validate_mode(source, f"{path}.projected", "defaultMode")
        for item, at in fields.each(source.get("sources"), f"{path}.projected.sources"):
            errors += fields.exactly_one(item, at, PROJECTED, "projected volume type")
            for kind in ("configMap", "secret", "downwardAPI"):
                if item.get(kind) is not None:
                    errors += _validate_files(item[kind], f"{at}.{kind}")
            if item.get("serviceAccountToken") is not None:
                errors += fields.required(item["serviceAccountToken"], f"{at}.serviceAccountToken", "path")
    return errors


def _validate_files(source: Object, path: str) -> list[FieldError]:
    errors = _validate_mode(source, path, "defaultMode")
    for item, at in fields.each(source.get("items"), f"{path}.items"):
        errors += fields.required(item, at, "path")
        errors += _validate_mode(item, at, "mode")
        target = item.get("path") or ""
        if target.startswith("/") or ".." in target.split("/"):
            errors.append(FieldError.invalid(f"{at}.path", target, "must be a relative path without '..'"))
    return errors


def _validate_mode(source: Object, path: str, field: str) -> list[FieldError]:
    mode = source.get(field)
    if mode is None or 0 <= mode <= 0o777:
        return []
    message = "must be a number between 0 and 0777 (octal), both inclusive"
    return [FieldError.invalid(f"{path}.{field}", mode, message)]
