"""Admission plugins: what the server adds to or refuses in an object (Kubernetes concept: Admission Control).

`plugins()` gives them in the order in which they run.
"""

from __future__ import annotations

import ipaddress

from control.api.address_claims import AddressClaims
from control.api.admission.certificate_authority import CertificateAuthority
from control.api.admission.certificate_request import CertificateRequest
from control.api.admission.default_toleration_seconds import DefaultTolerationSeconds
from control.api.admission.node_restriction import NodeRestriction
from control.api.admission.priority import Priority
from control.api.admission.rbac_escalation import RBACEscalation
from control.api.admission.service_account import ServiceAccount
from control.api.admission.service_addresses import ServiceAddresses
from control.api.attributes import Admission, Authorizer, ObjectReader
from kube.clock import Clock


def plugins(
    reader: ObjectReader,
    authorizer: Authorizer,
    *,
    service_cidr: str,
    node_ports: range = range(30000, 32768),
    clock: Clock,
    claims: AddressClaims | None = None,
) -> tuple[Admission, ...]:
    """All plugins, for Services in `service_cidr` and node ports in `node_ports`.

    `claims` are there if other masters allot those too.
    """
    return (
        NodeRestriction(reader),
        RBACEscalation(reader, authorizer),
        CertificateRequest(),
        CertificateAuthority(authorizer),
        ServiceAccount(reader, clock),
        Priority(reader),
        DefaultTolerationSeconds(),
        ServiceAddresses(reader, ipaddress.IPv4Network(service_cidr), node_ports, clock, claims=claims),
    )
