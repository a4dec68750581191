"""What the controllers of EndpointSlices and Endpoints share: a pod's event becomes the keys of its Services."""

from __future__ import annotations

from control.controllers import controller_ref, service_endpoints
from control.controllers.controller import Context, Controller
from kube import objects
from kube.informer import DELETED, Delta
from kube.models import core_v1

# Pods of a rollout become ready in bursts: wait this long for more of them before writing. Short enough that nobody
# notices, long enough to halve the writes.
BATCH_SECONDS = 0.02


class ServicePodsController(Controller):
    """Keys are Services; watches Services and Pods."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        indexers = {controller_ref.NAMESPACE_INDEX: controller_ref.by_namespace}
        self.services = self.watch(core_v1.Service, self._on_service, indexers=indexers)
        self.pods = self.watch(core_v1.Pod, self._on_pod, indexers=indexers)

    def selected_pods(self, service: core_v1.Service) -> list[core_v1.Pod]:
        """Pods in the cache that the Service selects."""
        pods = self.pods.by_index(controller_ref.NAMESPACE_INDEX, objects.namespace(service))
        return [pod for pod in pods if service_endpoints.selects(service, pod)]

    def _on_service(self, delta: Delta[core_v1.Service]) -> None:
        self.queue.add(objects.key(delta.object))

    def _on_pod(self, delta: Delta[core_v1.Pod]) -> None:
        pod, old = delta.object, delta.old
        if delta.type != DELETED and old is not None and not service_endpoints.has_changed(old, pod):
            return
        for service in self.services.by_index(controller_ref.NAMESPACE_INDEX, objects.namespace(pod)):
            if service_endpoints.selects(service, pod) or (old and service_endpoints.selects(service, old)):
                self.queue.add_after(objects.key(service), BATCH_SECONDS)
