"""Acting as somebody else (`kubectl --as`, `Impersonate-*` headers; Kubernetes: User Impersonation)."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from control.api.attributes import (
    ANONYMOUS,
    AUTHENTICATED_GROUP,
    UNAUTHENTICATED_GROUP,
    Attributes,
    Authorizer,
    UserInfo,
)
from kube import status

USER = "impersonate-user"
GROUP = "impersonate-group"
UID = "impersonate-uid"
EXTRA = "impersonate-extra-"
SERVICE_ACCOUNT = "system:serviceaccount:"


def is_wanted(headers: Mapping[str, str]) -> bool:
    """Whether a request asks for it. Cheap: most do not."""
    return any(name.startswith("impersonate-") for name in headers)


async def impersonate(headers: Mapping[str, str], user: UserInfo, authorizer: Authorizer) -> UserInfo:
    """The user that the caller wants to be. ApiError 400 without a user, 403 for each part that is not allowed.

    Values of one header that was sent several times are separated by commas.
    """
    name = headers.get(USER, "")
    if not name:
        raise status.bad_request("impersonation of groups, uid or extra needs Impersonate-User as well")
    groups = tuple(filter(None, (g.strip() for g in headers.get(GROUP, "").split(","))))
    extra = {
        unquote(key[len(EXTRA) :]): tuple(v.strip() for v in value.split(","))
        for key, value in headers.items()
        if key.startswith(EXTRA)
    }
    if name.startswith(SERVICE_ACCOUNT) and name.count(":") == 3:
        namespace, account = name[len(SERVICE_ACCOUNT) :].split(":")
        await _check(authorizer, user, "", "serviceaccounts", account, namespace=namespace)
        groups = groups or ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    else:
        await _check(authorizer, user, "", "users", name)
    for group in headers.get(GROUP, "") and groups:
        await _check(authorizer, user, "", "groups", group)
    if headers.get(UID):
        await _check(authorizer, user, "authentication.k8s.io", "uids", headers[UID])
    for key, values in extra.items():
        for value in values:
            await _check(authorizer, user, "authentication.k8s.io", "userextras", value, subresource=key)
    every = UNAUTHENTICATED_GROUP if name == ANONYMOUS else AUTHENTICATED_GROUP
    return UserInfo(name, uid=headers.get(UID, ""), groups=tuple(dict.fromkeys((*groups, every))), extra=extra)


async def _check(
    authorizer: Authorizer,
    user: UserInfo,
    group: str,
    resource: str,
    name: str,
    *,
    namespace: str = "",
    subresource: str = "",
) -> None:
    attributes = Attributes(user, "impersonate", group, "v1", resource, subresource, namespace, name)
    if not (await authorizer.authorize(attributes)).allowed:
        detail = (
            f'User "{user.name}" cannot impersonate resource "{resource}" in API group "{group}" at the cluster scope'
        )
        raise status.forbidden(resource, name, detail, group=group)
