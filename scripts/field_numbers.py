"""Writes kube/field_numbers.json: the protobuf field numbers of the Kubernetes API, read out of a kubectl program.

    python scripts/field_numbers.py /usr/bin/kubectl        (needs the package protobuf)

Field numbers never change once they are given out, and no package for Python lists them for a present version. Go
programs that speak the API carry the descriptors of all messages, compressed. A field that the JSON form does not
have is an embedded message whose own fields stand in its parent there; its entry is `*` and the message's name.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from pathlib import Path

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

ROOT = Path(__file__).resolve().parent.parent
GZIP = re.compile(b"\x1f\x8b\x08")
LARGEST = 4_000_000


def descriptors(program: bytes) -> list[FileDescriptorProto]:
    """All file descriptors of Kubernetes' API groups that are in a program."""
    found = []
    for match in GZIP.finditer(program):
        try:
            text = zlib.decompressobj(31).decompress(program[match.start() : match.start() + LARGEST], LARGEST)
        except zlib.error:
            continue
        if text[:1] == b"\x0a" and b"generated.proto" in text[:200]:
            found.append(FileDescriptorProto.FromString(text))
    return found


def definition(message: str) -> str:
    """Name of the API's definition for a message: the same, but for its domain the other way round."""
    return "io.k8s." + message.lstrip(".").removeprefix("k8s.io.")


def main() -> None:
    schema = json.loads((ROOT / "kube" / "models" / "schema.json").read_text())
    out: dict[str, dict[str, str]] = {}
    for file in descriptors(Path(sys.argv[1]).read_bytes()):
        for message in file.message_type:
            name = definition(f"{file.package}.{message.name}")
            fields = out.setdefault(name, {})
            # some names differ in case only (Webhooks, uID)
            known = {f.lower(): f for f in schema.get(name, {}).get("fields", {})}
            for field in message.field:
                is_message = field.type == FieldDescriptorProto.TYPE_MESSAGE
                # a message that is always embedded has no definition: its fields are plain ones
                inline = is_message and name in schema and field.name.lower() not in known
                plain = known.get(field.name.lower(), field.name)
                fields[str(field.number)] = f"*{definition(field.type_name)}" if inline else plain
    # what the schema has, and what is embedded into it
    wanted = set(schema)
    while more := {t[1:] for n in wanted for t in out.get(n, {}).values() if t.startswith("*")} - wanted:
        wanted |= more
    kept = {name: out[name] for name in sorted(wanted) if name in out}
    lines = ",\n".join(f"{json.dumps(n)}: {json.dumps(f, separators=(',', ':'))}" for n, f in kept.items())
    (ROOT / "kube" / "field_numbers.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
