"""Build hook: turns the Kubernetes API's definitions into typed models and a compact schema.

The definitions come from the build requirement `kubernetes-validate`, which ships them for each Kubernetes minor
version. Three kinds of files are written into `kube/models/` (none of them is committed):

- `<group>_<version>.py`: one msgspec Struct a definition, fields under their JSON names;
- `schema.json`: every definition without prose: types, required fields, patch merge keys, list types and map keys;
- `descriptions.json`: the prose, read only when somebody asks for OpenAPI (`kubectl explain`).

Run by hatchling for wheels and editable installs; `python scripts/build_models.py` writes the same files by hand.
"""

from __future__ import annotations

import importlib.util
import json
import keyword
import re
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand, outside a build
    BuildHookInterface = object

KUBERNETES_VERSION = "1.32"
ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "kube" / "models"

# Definitions of these prefixes become modules of these names.
PREFIXES = {
    "io.k8s.api.": None,
    "io.k8s.apimachinery.pkg.apis.meta.v1.": "meta_v1",
    "io.k8s.apimachinery.pkg.api.resource.": "meta_v1",
    "io.k8s.apimachinery.pkg.runtime.": "meta_v1",
    "io.k8s.apimachinery.pkg.util.intstr.": "meta_v1",
    "io.k8s.apimachinery.pkg.version.": "meta_v1",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.": "apiextensions_v1",
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.": "apiregistration_v1",
}
LEAVES = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": ("quantity", "Quantity"),
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": ("intOrString", "IntOrString"),
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": ("time", "str"),
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": ("microTime", "str"),
    "io.k8s.apimachinery.pkg.runtime.RawExtension": ("any", "Any"),
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1": ("any", "Any"),
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch": ("any", "Any"),
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON": ("any", "Any"),
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray": ("any", "Any"),
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool": ("any", "Any"),
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray": ("any", "Any"),
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceSubresourceStatus": ("any", "Any"),
}
SCALARS = {"string": "str", "boolean": "bool", "number": "float", "int32": "int", "int64": "int"}


def module_of(definition: str) -> str | None:
    """Module a definition belongs to (`core_v1`), or None if it is not part of the stable API."""
    for prefix, module in PREFIXES.items():
        if definition.startswith(prefix):
            if module:
                return module
            group, version = definition[len(prefix) :].split(".")[:2]
            return f"{group}_{version}" if re.fullmatch(r"v\d+", version) else None
    return None


def plain_type(node: dict[str, Any]) -> str:
    declared = node.get("type", "")
    if isinstance(declared, list):
        declared = next((t for t in declared if t != "null"), "")
    if declared == "integer":
        return "int32" if node.get("format") == "int32" else "int64"
    return declared or "any"


def type_node(node: dict[str, Any]) -> Any:
    """Compact form of a JSON-schema node: a scalar's name, {"ref"}, {"list": item} or {"map": value}."""
    if "$ref" in node:
        target = node["$ref"].split("/")[-1]
        return LEAVES[target][0] if target in LEAVES else {"ref": target}
    kind = plain_type(node)
    if kind == "array":
        return {"list": type_node(node["items"])}
    if kind == "object":
        values = node.get("additionalProperties")
        return {"map": type_node(values)} if isinstance(values, dict) else "any"
    return "bytes" if kind == "string" and node.get("format") == "byte" else kind


def field_node(node: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"type": type_node(node)}
    for key, short in (
        ("x-kubernetes-patch-merge-key", "mergeKey"),
        ("x-kubernetes-patch-strategy", "strategy"),
        ("x-kubernetes-list-type", "listType"),
        ("x-kubernetes-list-map-keys", "mapKeys"),
        ("default", "default"),
    ):
        if key in node:
            out[short] = node[key]
    return out


def compact(definitions: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the definitions of the stable API into (schema without prose, prose)."""
    schema: dict[str, Any] = {}
    prose: dict[str, Any] = {}
    for name, node in sorted(definitions.items()):
        if module_of(name) is None or name in LEAVES:
            continue
        fields = node.get("properties", {})
        entry: dict[str, Any] = {"fields": {f: field_node(n) for f, n in fields.items()}}
        if node.get("required"):
            entry["required"] = node["required"]
        if kinds := node.get("x-kubernetes-group-version-kind"):
            # DeleteOptions and WatchEvent list every group there is; the group is the request's, not the type's.
            entry["gvk"] = kinds if len(kinds) == 1 else []
        schema[name] = entry
        prose[name] = {
            "": node.get("description", ""),
            **{f: n["description"] for f, n in fields.items() if n.get("description")},
        }
    return schema, prose


def python_name(field: str) -> str:
    name = re.sub(r"\W", "_", field)
    return name + "_" if keyword.iskeyword(name) or name[0].isdigit() else name


def python_type(node: Any, module: str) -> str:
    if isinstance(node, str):
        for kind, python in LEAVES.values():
            if kind == node:
                return f"meta_v1.{python}" if python in ("Quantity", "IntOrString") and module != "meta_v1" else python
        return "str" if node == "bytes" else SCALARS.get(node, "Any")
    if "list" in node:
        return f"list[{python_type(node['list'], module)}]"
    if "map" in node:
        return f"dict[str, {python_type(node['map'], module)}]"
    owner, name = module_of(node["ref"]), node["ref"].split(".")[-1]
    return name if owner == module else f"{owner}.{name}"


def references(node: Any) -> set[str]:
    """The definitions that a type node names."""
    if isinstance(node, str):
        return set()
    return {node["ref"]} if "ref" in node else references(node.get("list", node.get("map")))


def in_order(names: list[str], schema: dict[str, Any]) -> list[str]:
    """The definitions of a module, each after those of the same module that it refers to, as far as there are no
    cycles."""
    ordered: dict[str, None] = {}
    begun: set[str] = set()

    def add(name: str) -> None:
        if name in begun or name not in names:
            return
        begun.add(name)
        for spec in schema[name]["fields"].values():
            for other in sorted(references(spec["type"])):
                add(other)
        ordered[name] = None

    for name in names:
        add(name)
    return list(ordered)


def struct(name: str, entry: dict[str, Any], module: str, defined: set[str]) -> str:
    """Source of one Struct. Every field may be absent: what is required is the API server's to judge.

    Annotations are types and not strings where what they name is `defined` before: msgspec would evaluate each string
    when a type is used first, which takes a starting program longer than all else that it does with its types.
    """
    lines = [f"class {name.split('.')[-1]}(Model):"]
    kinds = entry.get("gvk") or []
    for field, spec in entry["fields"].items():
        python, kind = python_name(field), spec["type"]
        later = any(module_of(other) == module and other not in defined for other in references(kind))
        alias = f", name={field!r}" if python != field else ""
        annotation = python_type(kind, module)
        if kinds and field in ("apiVersion", "kind"):
            gvk = kinds[0]
            value = gvk["kind"] if field == "kind" else "/".join(filter(None, (gvk["group"], gvk["version"])))
            # a factory, so that encoding never takes it for an omitted default
            lines.append(f"    {python}: str = field(default_factory=lambda: {value!r})")
        elif kinds and field == "metadata":
            assert not later, "metadata are of meta/v1"
            lines.append(f"    {python}: {annotation} = field(default_factory=lambda: {annotation}())")
        elif isinstance(kind, dict) and "ref" not in kind:
            factory = "list" if "list" in kind else "dict"
            if later:
                annotation = f'"{annotation}"'
            lines.append(f"    {python}: {annotation} = field(default_factory={factory}{alias})")
        else:
            default = f"field(default=None{alias})" if alias else "None"
            optional = annotation if annotation == "Any" else f"{annotation} | None"
            if later:
                optional = f'"{optional}"'
            lines.append(f"    {python}: {optional} = {default}")
    if len(lines) == 1:
        lines.append("    pass")
    return "\n".join(lines)


def module_source(module: str, names: list[str], schema: dict[str, Any]) -> str:
    ordered = in_order(names, schema)
    bodies = [struct(name, schema[name], module, set(ordered[:at])) for at, name in enumerate(ordered)]
    body = "\n\n\n".join(bodies)
    others = sorted(set(re.findall(r"\b([a-z]+_v\d+)\.", body)) - {module})
    head = [
        f'"""Typed objects of {module.replace("_", "/")}, generated by scripts/build_models.py: do not edit."""',
        "",
        "from typing import Any",
        "",
        "from msgspec import Struct, field",
        "",
    ]
    if others:
        head += [f"from kube.models import {', '.join(others)}", ""]
    if module == "meta_v1":
        head += ["Quantity = str | int | float", "IntOrString = int | str", ""]
    head += ["", "class Model(Struct, kw_only=True, omit_defaults=True):", "    pass", "", "", ""]
    return "\n".join(head) + body + "\n"


def write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def generate() -> None:
    """Write all files of `kube/models/` that are not committed."""
    package = importlib.util.find_spec("kubernetes_validate")
    if package is None or package.origin is None:
        raise SystemExit("kubernetes-validate is not installed: it is a build requirement (pyproject.toml)")
    source = Path(package.origin).parent / "kubernetes-json-schema" / f"v{KUBERNETES_VERSION}.0-local"
    definitions = json.loads((source / "_definitions.json").read_text())["$defs"]
    schema, prose = compact(definitions)
    modules: dict[str, list[str]] = {}
    for name in schema:
        modules.setdefault(module_of(name) or "", []).append(name)
    for module, names in modules.items():
        write_if_changed(TARGET / f"{module}.py", module_source(module, names, schema))
    write_if_changed(TARGET / "schema.json", json.dumps(schema, separators=(",", ":"), sort_keys=True))
    write_if_changed(TARGET / "descriptions.json", json.dumps(prose, separators=(",", ":"), sort_keys=True))


class ModelsHook(BuildHookInterface):  # type: ignore[misc,valid-type]
    """Hatchling's entry: generate before files are collected."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate()


if __name__ == "__main__":
    generate()
