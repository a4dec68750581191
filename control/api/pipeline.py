"""The way of a request through the API server, from top to bottom:

    read it → who is asking → may they → which resource → do it (admit → validate → commit) → answer

Each step is a function over the `Call`, which carries what the steps before have found out. A step that answers ends
the way. Every error becomes a Status object; nothing else ever reaches a client.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from control.api import body, impersonation, nonresource, openapi_v2, output, request_info
from control.api.attributes import (
    ANONYMOUS_USER,
    AUTHENTICATED_GROUP,
    Attributes,
    ClientCertificate,
    Object,
    Operation,
    UserInfo,
)
from control.api.call import Call, Options
from control.api.environment import Environment
from control.api.handlers import create, delete, get, patch, update, watch
from control.api.handlers import list as list_
from control.api.metrics import RequestCounters
from control.api.operations import ApiOperations
from control.api.resource import Resource, Subresource
from control.api.subresource import SubresourceContext, Upgrade
from control.store.errors import OutcomeUnknownError, StoreClosedError, StoreError, StoreUnavailableError
from kube import schema, status
from kube.status import ApiError
from kube.transport import Request, Response

Handler = Callable[[Environment, Call], Awaitable[Response]]

REQUEST_SECONDS = 60.0
LONG_RUNNING = frozenset({"exec", "attach", "portforward", "proxy", "log"})
CONNECTIONS = frozenset({"exec", "attach", "portforward", "proxy"})

HANDLERS: dict[str, Handler] = {
    "create": create.handle,
    "delete": delete.handle,
    "deletecollection": delete.handle_collection,
    "get": get.handle,
    "list": list_.handle,
    "patch": patch.handle,
    "update": update.handle,
    "watch": watch.handle,
}

# Letters of all warnings together, and of one where they are more (as in Kubernetes).
WARNINGS_LENGTH = 4096
WARNING_LENGTH = 256

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

log = logging.getLogger(__name__)


class Api:
    """The API server without its sockets: requests in, responses out."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.operations = ApiOperations(environment)
        self.counters = RequestCounters()
        self.nonresource = nonresource.NonResource(environment, self.counters)

    async def handle(
        self,
        request: Request,
        *,
        client_cert: ClientCertificate | None = None,
        upgrade: Upgrade | None = None,
        user: UserInfo | None = None,
    ) -> Response:
        """Answer a request. `user` is set by callers inside the master, who need no credentials. Never raises."""
        begun = time.perf_counter()
        call: Call | None = None
        try:
            call = read(request, client_cert, upgrade)
            async with asyncio.timeout(time_limit(call)):
                response = await self._answer(call, user)
        except ApiError as error:
            response = output.respond_error(error, output=call.output if call else output.PLAIN)
        except TimeoutError:
            response = output.respond_error(status.timeout("request did not complete within the allotted time"))
        except StoreClosedError:
            response = output.respond_error(status.service_unavailable("the server is shutting down"))
        except OutcomeUnknownError as error:
            # Without Retry-After: client-go would repeat whatever it was by itself.
            log.error("%s %s: %s", request.method, request.path, error)
            response = output.respond_error(status.timeout(str(error)))
        except StoreUnavailableError as error:
            # It has not happened: another master may do it.
            log.error("%s %s: %s", request.method, request.path, error)
            response = output.respond_error(status.service_unavailable(str(error)))
        except StoreError as error:
            log.error("%s %s: %s", request.method, request.path, error)
            response = output.respond_error(status.internal_error(str(error)))
        except Exception as error:
            # whatever went wrong belongs to this request alone; the others go on
            log.exception("%s %s failed", request.method, request.path)
            response = output.respond_error(status.internal_error(f"{type(error).__name__}: {error}"))
        if call is not None:
            info = call.info
            resource = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
            seconds = time.perf_counter() - begun
            self.counters.count(info.verb.upper(), info.group, resource, response.status, seconds)
            if call.warnings:
                response.headers = {**response.headers, "warning": warning_header(call.warnings)}
        return response

    async def _answer(self, call: Call, user: UserInfo | None) -> Response:
        public = not call.info.is_resource_request and nonresource.is_public(call.info.path)
        if not public and not self.environment.cache.loaded.is_set():
            # without the objects nobody can be told from anybody else
            raise status.service_unavailable("the server has not read its store yet, please try again")
        await self._authenticate(call, user)
        await self._authorize(call)
        if not call.info.is_resource_request:
            return await self.nonresource.answer(call)
        self._find(call)
        if call.found_subresource is not None or call.resource.handler:
            return await self._subresource(call)
        return await HANDLERS[call.info.verb](self.environment, call)

    async def _authenticate(self, call: Call, user: UserInfo | None) -> None:
        """Who is asking. ApiError 401 for wrong credentials; without any it is the anonymous user."""
        if user is None:
            headers = call.request.headers
            user = await self.environment.authenticator.authenticate(headers, call.client_cert)
            if user is None:
                user = ANONYMOUS_USER
            elif AUTHENTICATED_GROUP not in user.groups:
                user = replace(user, groups=(*user.groups, AUTHENTICATED_GROUP))
            if impersonation.is_wanted(headers):
                user = await impersonation.impersonate(headers, user, self.environment.authorizer)
        call.user = user
        call.attributes = attributes_of(call)

    async def _authorize(self, call: Call) -> None:
        """May they. ApiError 403."""
        if not call.info.is_resource_request and nonresource.is_public(call.info.path):
            return
        decision = await self.environment.authorizer.authorize(call.attributes)
        if not decision.allowed:
            raise refused(call.attributes, decision.reason)

    def _find(self, call: Call) -> None:
        """Which resource is meant. ApiError 404 for one that is not served, 405 for a verb that it does not have."""
        info = call.info
        resource = self.environment.registry.find(info.group, info.version, info.resource)
        if resource is None:
            raise status.no_such_path()
        kind = resource.kind
        call.found_resource = resource
        if kind.namespaced and info.name and not info.namespace and info.verb not in _COLLECTION_VERBS:
            raise status.no_such_path()
        if not kind.namespaced and info.namespace and not _is_namespace_itself(info):
            # such a request was authorized in that namespace, where it has no business
            raise status.no_such_path()
        if info.rest and info.subresource != "proxy":
            raise status.no_such_path()
        if not info.subresource:
            if info.verb not in (("create",) if resource.handler else resource.verbs):
                raise status.method_not_allowed(kind.plural, info.verb, group=kind.group)
            if bool(info.name) == (info.verb == "create") and info.verb not in _COLLECTION_VERBS:
                raise status.method_not_allowed(kind.plural, info.verb, group=kind.group)
            return
        subresource = resource.subresource(info.subresource)
        if subresource is None:
            raise status.no_such_path()
        if info.verb not in subresource.verbs:
            raise status.method_not_allowed(f"{kind.plural}/{subresource.name}", info.verb, group=kind.group)
        if subresource.handler != "status":
            call.found_subresource = subresource

    async def _subresource(self, call: Call) -> Response:
        """Hand a call to the module that serves the subresource, or the resource that is never stored."""
        environment, resource = self.environment, call.resource
        kind = resource.kind
        subresource = call.found_subresource or Subresource(
            "", resource.handler, kind.group, kind.version, kind.kind, ("create",)
        )
        try:
            handler = environment.handler(subresource.handler)
        except LookupError:
            raise status.no_such_path() from None
        current: Object = {}
        if call.info.name:
            await environment.cache.fresh()
            entry = environment.storage.get(resource, call.namespace, call.info.name)
            if entry is None:
                raise status.not_found(kind.plural, call.info.name, group=kind.group)
            current = entry.seen_as(resource).object
        sent: Object | None = None
        if subresource.name in CONNECTIONS:
            await environment.admit(None, None, Operation.CONNECT, call.attributes)
        elif call.info.verb == "create":
            sent = self._body(call, subresource)
            await environment.admit(sent, None, Operation.CREATE, call.attributes)
        context = SubresourceContext(
            resource=resource,
            subresource=subresource,
            attributes=call.attributes,
            object=current,
            reader=environment.reader,
            operations=self.operations,
            authenticator=environment.authenticator,
            authorizer=environment.authorizer,
            changed=lambda old: self._changed(call, subresource, old),
            body=sent,
            assets=environment.assets,
            upgrade=call.upgrade,
            dry_run=call.attributes.dry_run,
        )
        return await handler(context, call.request)

    def _body(self, call: Call, subresource: Subresource) -> Object:
        """The checked body of a POST to a subresource."""
        obj = body.parse(call.request)
        body.expect_kind(obj, _api_version(subresource), subresource.kind)
        self._check(call, subresource, obj)
        return obj

    def _changed(self, call: Call, subresource: Subresource, current: Object) -> Object:
        """What a PUT or PATCH makes of a subresource's current form."""
        if call.info.verb == "update":
            return self._body(call, subresource)
        kind = replace(call.resource.kind, group=subresource.group, version=subresource.version, kind=subresource.kind)
        type_ = _type(call.resource, subresource)
        changed = patch.apply(patch.read(call.request), call.request, current, kind, type_)
        self._check(call, subresource, changed)
        return changed

    def _check(self, call: Call, subresource: Subresource, obj: Object) -> None:
        type_ = _type(call.resource, subresource)
        if type_ is not None:
            validation = call.options.field_validation
            warnings = body.check(obj, type_, subresource.kind, subresource.version, validation)
            call.warnings += [w for w in warnings if w not in call.warnings]


_COLLECTION_VERBS = frozenset({"list", "watch", "deletecollection"})


def _is_namespace_itself(info: request_info.RequestInfo) -> bool:
    """Whether it is about a Namespace: those requests count as made in the namespace that they are about."""
    return not info.group and info.resource == "namespaces" and info.name == info.namespace


def read(request: Request, client_cert: ClientCertificate | None, upgrade: Upgrade | None) -> Call:
    """What is asked. ApiError 406 if the client accepts no form of answer that there is."""
    query: dict[str, str] = {}
    for name, value in request.query:
        query.setdefault(name, value)
    info = request_info.parse(request.method, request.path, query)
    accept = request.headers.get("accept", "")
    # this one document has a form that nothing else has
    own_form = not info.is_resource_request and openapi_v2.is_protobuf_wanted(accept)
    form = output.PLAIN if own_form else output.negotiate(accept, query.get("includeObject", ""))
    return Call(request, info, Options(query), form, client_cert, upgrade)


def attributes_of(call: Call) -> Attributes:
    """The request as authorizers see it. ApiError 422 for options that make no sense."""
    info, options = call.info, call.options
    return Attributes(
        user=call.user,
        verb=info.verb,
        group=info.group,
        version=info.version,
        resource=info.resource,
        subresource=info.subresource,
        namespace=info.namespace,
        name=info.name,
        path=info.path,
        is_resource_request=info.is_resource_request,
        dry_run=options.dry_run,
        label_selector=options.text("labelSelector"),
        field_selector=options.text("fieldSelector"),
    )


def refused(attributes: Attributes, reason: str) -> ApiError:
    """403, in the words that users of Kubernetes know."""
    user = attributes.user.name
    tail = f": {reason}" if reason else ""
    if not attributes.is_resource_request:
        message = f'forbidden: User "{user}" cannot {attributes.verb} path "{attributes.path}"{tail}'
        return ApiError(403, status.Reason.FORBIDDEN, message)
    resource = attributes.resource
    if attributes.subresource:
        resource += f"/{attributes.subresource}"
    where = f'in the namespace "{attributes.namespace}"' if attributes.namespace else "at the cluster scope"
    detail = (
        f'User "{user}" cannot {attributes.verb} resource "{resource}" in API group "{attributes.group}" {where}{tail}'
    )
    return status.forbidden(attributes.resource, attributes.name, detail, group=attributes.group)


def time_limit(call: Call) -> float | None:
    """Seconds that a request may take; None for those that live as long as their client wants."""
    if call.info.verb == "watch" or call.info.subresource in LONG_RUNNING:
        return None
    match = _DURATION.fullmatch(call.options.text("timeout"))
    if match is None or not match[0]:
        return REQUEST_SECONDS
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return min(REQUEST_SECONDS, hours * 3600.0 + minutes * 60.0 + seconds) or REQUEST_SECONDS


def warning_header(warnings: list[str]) -> str:
    """Warnings for people, as one header (RFC 7234; kubectl prints them)."""
    texts = [*dict.fromkeys(_CONTROL.sub(" ", w) for w in warnings)]
    if sum(map(len, texts)) > WARNINGS_LENGTH:
        # clients refuse answers whose headers are too long, although what they asked for has been done
        texts = [t[:WARNING_LENGTH] for t in texts][: WARNINGS_LENGTH // WARNING_LENGTH]
    quoted = (t.replace("\\", "\\\\").replace('"', '\\"') for t in texts)
    return ", ".join(f'299 - "{text}"' for text in quoted)


def _api_version(subresource: Subresource) -> str:
    return f"{subresource.group}/{subresource.version}" if subresource.group else subresource.version


def _type(resource: Resource, subresource: Subresource) -> schema.TypeNode | None:
    kind = resource.kind
    if (subresource.group, subresource.version, subresource.kind) == (kind.group, kind.version, kind.kind):
        return resource.type
    try:
        return schema.load().kind(subresource.group, subresource.version, subresource.kind)
    except LookupError:
        return None
