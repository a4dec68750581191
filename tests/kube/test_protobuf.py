"""Kubernetes' protobuf form: messages as kubectl sends them, and what is malformed."""

from __future__ import annotations

import contextlib
import json
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import protobuf, schema
from kube.codec import DecodeError

NUMBERS: dict[str, dict[str, str]] = json.loads(resources.files("kube").joinpath("field_numbers.json").read_text())
CORE = "io.k8s.api.core.v1."


def varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def number(message: str, name: str) -> int:
    return next(int(n) for n, f in NUMBERS[message].items() if f == name)


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    meta = field(1, api_version.encode()) + field(2, kind.encode())
    return protobuf.MAGIC + field(1, meta) + field(2, raw)


def text(message: str, **fields: Any) -> bytes:
    """A message of plain fields, in the order given."""
    return b"".join(field(number(message, n), v.encode() if isinstance(v, str) else v) for n, v in fields.items())


META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def test_a_config_map_with_labels_and_binary_data() -> None:
    label = field(1, b"app") + field(2, b"web")
    metadata = (
        text(META, name="a") + field(number(META, "creationTimestamp"), b"") + field(number(META, "labels"), label)
    )
    raw = text(
        CORE + "ConfigMap",
        metadata=metadata,
        data=field(1, b"k") + field(2, b"v"),
        binaryData=field(1, b"b") + field(2, b"\x00\x01"),
    )
    assert protobuf.decode(envelope("v1", "ConfigMap", raw)) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a", "labels": {"app": "web"}},
        "data": {"k": "v"},
        "binaryData": {"b": "AAE="},
    }


def test_embedded_messages_quantities_and_either_numbers_or_names() -> None:
    action = text(CORE + "HTTPGetAction", path="/", port=field(1, 1) + field(3, b"http"))
    handler = field(number(CORE + "ProbeHandler", "httpGet"), action)
    probe = field(1, handler) + text(CORE + "Probe", initialDelaySeconds=0, periodSeconds=5)
    limits = field(1, b"cpu") + field(2, field(1, b"500m"))
    container = text(
        CORE + "Container",
        name="c",
        resources=text(CORE + "ResourceRequirements", limits=limits),
        readinessProbe=probe,
        stdin=0,
    )
    source = field(number(CORE + "VolumeSource", "emptyDir"), b"")
    volume = text(CORE + "Volume", name="v") + field(2, source)
    spec = text(CORE + "PodSpec", volumes=volume, containers=container, automountServiceAccountToken=0, hostNetwork=0)
    pod = protobuf.decode(envelope("v1", "Pod", text(CORE + "Pod", spec=spec)))
    assert pod["spec"] == {
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [
            {
                "name": "c",
                "resources": {"limits": {"cpu": "500m"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
            }
        ],
        # false is meant where the field could have been left out, and only there
        "automountServiceAccountToken": False,
    }


def test_negative_numbers_and_times() -> None:
    time = field(1, 1_750_000_000) + field(2, 0)
    metadata = field(number(META, "deletionTimestamp"), time) + text(META, deletionGracePeriodSeconds=0)
    raw = text("io.k8s.api.scheduling.v1.PriorityClass", metadata=metadata, value=-5)
    found = protobuf.decode(envelope("scheduling.k8s.io/v1", "PriorityClass", raw))
    assert found["value"] == -5
    assert found["metadata"] == {"deletionTimestamp": "2025-06-15T15:06:40Z"}


def test_delete_options_are_of_every_group() -> None:
    options = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"
    raw = text(options, gracePeriodSeconds=0, propagationPolicy="Foreground")
    found = protobuf.decode(envelope("apps/v1", "DeleteOptions", raw))
    assert (found["gracePeriodSeconds"], found["propagationPolicy"]) == (0, "Foreground")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "not a protobuf object"),
        (envelope("v1", "Nothing", b""), "not known in protobuf"),
        (envelope("v1", "ConfigMap", field(1, b"xx")[:-1]), "malformed"),
        (envelope("v1", "ConfigMap", b"\xff" * 12), "malformed"),
        (protobuf.MAGIC + b"\x0a", "malformed"),
        # taken for text, this number would be as many zeros: the server's memory
        (envelope("v1", "Pod", field(1, field(1, 1 << 50))), "found: a number"),
        (envelope("v1", "Pod", field(1, 7)), "found: a number; wanted: a message"),
        (envelope("v1", "Pod", field(2, field(4, b"x"))), "found: bytes; wanted: a number"),
    ],
)
def test_what_is_malformed_is_said(body: bytes, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        protobuf.decode(body)


# Fields of any number and wire type, inside each other: a number where text or a message belongs, and the other way.
fields = st.recursive(
    st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=12)),
    lambda inner: st.lists(st.tuples(st.integers(1, 40), inner), max_size=4).map(
        lambda parts: b"".join(field(n, value) for n, value in parts)
    ),
    max_leaves=20,
)


@given(st.lists(st.tuples(st.integers(1, 40), fields), max_size=5), st.sampled_from(["Pod", "Secret", "Event"]))
def test_fields_of_the_wrong_sort_are_malformed(parts: list[tuple[int, bytes | int]], kind: str) -> None:
    with contextlib.suppress(DecodeError):
        protobuf.decode(envelope("v1", kind, b"".join(field(n, value) for n, value in parts)))


@given(st.binary(max_size=200))
def test_no_input_breaks_the_reader(raw: bytes) -> None:
    try:
        found = protobuf.decode(envelope("v1", "Pod", raw))
    except DecodeError:
        return
    assert found["kind"] == "Pod"


def test_every_field_of_the_stable_workloads_has_a_number() -> None:
    definitions = schema.load().definitions

    def named(message: str) -> set[str]:
        found: set[str] = set()
        for name in NUMBERS[message].values():
            found |= named(name[1:]) if name.startswith("*") else {name}
        return found

    for message in definitions:
        if message.startswith(("io.k8s.api.core.v1.", "io.k8s.api.apps.v1.", "io.k8s.api.batch.v1.")):
            missing = set(definitions[message]["fields"]) - named(message) - {"apiVersion", "kind"}
            assert not missing, message
