"""Decoding and checking along the schema: what passes, what is pruned, and how each mistake is named."""

from __future__ import annotations

from typing import Any

import pytest

from kube import codec, schema


def check(obj: dict[str, Any], kind: str = "Pod", group: str = "") -> codec.Checked:
    return codec.check(obj, schema.load().kind(group, "v1", kind))


def container(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "c", "image": "i", **fields}]}}


@pytest.mark.parametrize(
    ("obj", "path", "words"),
    [
        (
            container(ports=[{"containerPort": "80"}]),
            "spec.containers[0].ports[0].containerPort",
            "whole number, not a string",
        ),
        (container(ports=[{"containerPort": 2**40}]), "spec.containers[0].ports[0].containerPort", "from -2147483648"),
        (container(command="sh"), "spec.containers[0].command", "a list, not a string"),
        (container(stdin="yes"), "spec.containers[0].stdin", "a boolean, not a string"),
        (container(resources=[]), "spec.containers[0].resources", "a mapping, not a list"),
        (container(resources={"limits": {"cpu": "1x"}}), "spec.containers[0].resources.limits.cpu", "not a quantity"),
        (
            container(livenessProbe={"httpGet": {"port": True}}),
            "spec.containers[0].livenessProbe.httpGet.port",
            "string",
        ),
        ({"metadata": {"labels": {"a": 1}}}, "metadata.labels.a", "a string, not a number"),
        ({"metadata": {"creationTimestamp": "yesterday"}}, "metadata.creationTimestamp", "RFC 3339"),
        ({"metadata": {"creationTimestamp": "2026-13-01T00:00:00Z"}}, "metadata.creationTimestamp", "RFC 3339"),
    ],
)
def test_a_wrong_value_is_named(obj: dict[str, Any], path: str, words: str) -> None:
    (error,) = check(obj).errors
    assert error.path == path
    assert words in str(error)


def test_a_secret_wants_base64() -> None:
    (error,) = check({"data": {"a": "not base64!"}}, "Secret").errors
    assert error.path == "data.a"
    assert "stringData" in str(error)


def test_unknown_fields_are_listed_and_pruned_with_the_closest_name() -> None:
    obj = {"spec": {"replica": 3, "template": {"spec": {"containers": [{"nam": "c"}]}}}}
    found = check(obj, "Deployment", "apps")
    assert [e.path for e in found.unknown] == ["spec.replica", "spec.template.spec.containers[0].nam"]
    assert "did you mean 'replicas'?" in str(found.unknown[0])
    assert not found.errors
    assert obj == {"spec": {"template": {"spec": {"containers": [{}]}}}}


def test_nulls_are_absent_and_quantities_become_canonical() -> None:
    obj = container(command=None, resources={"requests": {"cpu": "1000m", "memory": 1024}})
    assert not check(obj).errors
    assert obj["spec"]["containers"][0] == {
        "name": "c",
        "image": "i",
        "resources": {"requests": {"cpu": "1", "memory": "1024"}},
    }


def test_a_whole_number_may_be_written_as_a_float() -> None:
    obj = {"spec": {"replicas": 3.0}}
    assert not check(obj, "Deployment", "apps").errors
    assert obj["spec"]["replicas"] == 3
    assert isinstance(obj["spec"]["replicas"], int)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a: [1, 2", "malformed YAML at line"),
        (b"a: 1\na: 2", "malformed YAML at line 2"),
        (b"a: 1\n---\nb: 2", "more than one YAML document"),
    ],
)
def test_malformed_yaml_says_where(text: bytes, words: str) -> None:
    with pytest.raises(codec.DecodeError, match=words):
        codec.load_yaml(text)


def test_malformed_json_says_where() -> None:
    with pytest.raises(codec.DecodeError, match="line 2, column"):
        codec.parse(b'{"a": 1,\n b}')


def test_yaml_times_stay_text() -> None:
    assert codec.load_yaml(b"at: 2026-01-02T03:04:05Z") == {"at": "2026-01-02T03:04:05Z"}
