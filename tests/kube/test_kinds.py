"""The table of kinds agrees with the generated models and the schema."""

from __future__ import annotations

import pytest

from kube import kinds, objects, schema
from kube.kinds import Kind
from kube.models import apps_v1, core_v1


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda k: k.group_resource)
def test_every_kind_has_a_type_and_a_definition(kind: Kind) -> None:
    assert kinds.kind_of_type(kinds.model(kind)) is kind
    assert schema.load().kind(kind.group, kind.version, kind.kind).fields


def test_paths() -> None:
    pods, nodes = kinds.known("", "v1", "pods"), kinds.known("", "v1", "nodes")
    deployments = kinds.known("apps", "v1", "deployments")
    assert pods.path() == "/api/v1/pods"
    assert pods.path("a", "b", "log") == "/api/v1/namespaces/a/pods/b/log"
    assert nodes.path("", "n") == "/api/v1/nodes/n"
    assert deployments.path("a") == "/apis/apps/v1/namespaces/a/deployments"


def test_a_part_of_an_object_is_no_kind() -> None:
    with pytest.raises(LookupError, match="PodSpec"):
        kinds.kind_of_type(core_v1.PodSpec)


def test_typed_objects_keep_their_identity_and_omit_what_is_empty() -> None:
    deployment = apps_v1.Deployment()
    deployment.metadata.name = "a"
    assert objects.to_dict(deployment) == {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}


def test_unknown_fields_are_ignored_by_clients() -> None:
    pod = objects.decode(b'{"metadata":{"name":"a"},"spec":{"fromTheFuture":1}}', core_v1.Pod)
    assert objects.name(pod) == "a"


def test_copies_are_deep() -> None:
    pod = objects.from_dict({"metadata": {"name": "a", "labels": {"x": "1"}}}, core_v1.Pod)
    twin = objects.copy(pod)
    twin.metadata.labels["x"] = "2"
    assert pod.metadata.labels == {"x": "1"}


def test_schema_knows_merge_keys_and_recursive_types() -> None:
    known = schema.load()
    containers = known.kind("", "v1", "Pod").fields["spec"].type.fields["containers"]
    assert containers.patch_merge_key == "name"
    assert containers.patch_strategies == {"merge"}
    assert containers.list_map_keys == ("name",)
    props = known.definition("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
    assert props.fields["not"].type is props
