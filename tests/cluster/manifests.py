"""Small manifests that the tests of the whole cluster are made of, as plain data."""

from __future__ import annotations

from typing import Any

from tests.cluster.real_cluster import IMAGE

# A web server that answers with its pod's name, gracefully ended by SIGTERM.
SERVE = """
trap 'kill $server; exit 0' TERM
mkdir -p /tmp/www/cgi-bin
printf '#!/bin/sh\\nprintf "Content-Type: text/plain\\\\r\\\\n\\\\r\\\\n"; echo "$ANSWER $HOSTNAME $REMOTE_ADDR"' \
    > /tmp/www/cgi-bin/index.cgi
chmod +x /tmp/www/cgi-bin/index.cgi
httpd -f -p 8080 -h /tmp/www & server=$!
wait $server
"""
SLEEP = "trap 'exit 0' TERM; sleep 3600 & wait"


def container(script: str = SLEEP, *, name: str = "main", **fields: Any) -> dict[str, Any]:
    """A container that runs a shell script."""
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        **fields,
    }


def pod(name: str, *containers: dict[str, Any], labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A pod; without containers it sleeps."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": list(containers) or [container()], **spec},
    }


def deployment(name: str, *containers: dict[str, Any], replicas: int = 2, **spec: Any) -> dict[str, Any]:
    """A Deployment of pods labelled app=<name>; without containers they serve HTTP on port 8080."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 3, "containers": list(containers) or [server()]},
            },
            **spec,
        },
    }


def server(answer: str = "hello", **fields: Any) -> dict[str, Any]:
    """A container that answers `<answer> <pod> <client>` on port 8080, Ready when it does."""
    return container(
        SERVE,
        name="web",
        env=[{"name": "ANSWER", "value": answer}],
        ports=[{"name": "http", "containerPort": 8080}],
        readinessProbe={"tcpSocket": {"port": "http"}, "periodSeconds": 1},
        **fields,
    )


def service(name: str, *, app: str = "", node_port: int | None = None, **spec: Any) -> dict[str, Any]:
    """A Service on port 80 for the pods of a Deployment."""
    port: dict[str, Any] = {"name": "http", "port": 80, "targetPort": "http"}
    if node_port is not None:
        port["nodePort"] = node_port
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "type": "ClusterIP" if node_port is None else "NodePort",
            "selector": {"app": app or name},
            "ports": [port],
            **spec,
        },
    }


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
