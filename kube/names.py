"""What names, keys and values may look like in the Kubernetes API ("Object Names and IDs", "Labels and Selectors").

Each check takes a string and returns what is wrong with it as a list of messages; an empty list means that it is
valid. Messages say what is wanted, so that they can stand behind a field's path in an error.
"""

from __future__ import annotations

import re
import secrets

DNS1123_LABEL_MAX = 63
DNS1123_SUBDOMAIN_MAX = 253
DNS1035_LABEL_MAX = 63
QUALIFIED_NAME_MAX = 63
LABEL_VALUE_MAX = 63
PORT_NAME_MAX = 15
CONFIG_MAP_KEY_MAX = 253

# Neither vowels nor 0, 1 and 3: a generated name never spells a word, not even with digits for letters.
_SAFE_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX_LENGTH = 5
_GENERATED_BASE_MAX = 63 - _SUFFIX_LENGTH

_DNS1123_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_DNS1123_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_DNS1035_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", re.ASCII)
_CONFIG_MAP_KEY = re.compile(r"[-._a-zA-Z0-9]+", re.ASCII)
_PRINTABLE_BUT_EQUALS = re.compile(r"[ -<>-~]+", re.ASCII)
_PORT_NAME_CHARACTERS = re.compile(r"[-a-z0-9]+", re.ASCII)


def dns1123_label(text: str, *, prefix: bool = False) -> list[str]:
    """One part of a DNS name (RFC 1123): namespaces, containers. `prefix` checks a generateName, whose end is open."""
    return _dns(
        text,
        prefix=prefix,
        limit=DNS1123_LABEL_MAX,
        form=_DNS1123_LABEL,
        wanted="must be lower-case letters, digits and '-', and start and end with a letter or digit",
        example="my-name",
    )


def dns1123_subdomain(text: str, *, prefix: bool = False) -> list[str]:
    """A DNS name (RFC 1123): the names of most objects. `prefix` checks a generateName, whose end is open."""
    return _dns(
        text,
        prefix=prefix,
        limit=DNS1123_SUBDOMAIN_MAX,
        form=_DNS1123_SUBDOMAIN,
        wanted="must be lower-case letters, digits, '-' and '.', and each part between dots must start and end "
        "with a letter or digit",
        example="example.com",
    )


def dns1035_label(text: str, *, prefix: bool = False) -> list[str]:
    """One part of a DNS name that starts with a letter (RFC 1035): Services."""
    return _dns(
        text,
        prefix=prefix,
        limit=DNS1035_LABEL_MAX,
        form=_DNS1035_LABEL,
        wanted="must be lower-case letters, digits and '-', start with a letter and end with a letter or digit",
        example="my-name",
    )


def _dns(text: str, *, prefix: bool, limit: int, form: re.Pattern[str], wanted: str, example: str) -> list[str]:
    found = []
    if len(text) > limit:
        found.append(_too_long(limit))
    # What will be appended to a prefix is a letter or digit, so the prefix itself may end in a dash.
    checked = text[:-1] + "a" if prefix and len(text) > 1 and text.endswith("-") else text
    if not form.fullmatch(checked):
        found.append(f"{wanted} (such as '{example}')")
    return found


def qualified_name(text: str) -> list[str]:
    """A key of labels and annotations: a name, or a DNS subdomain, '/' and a name (`app.kubernetes.io/name`)."""
    prefix, slash, name = text.rpartition("/")
    found = []
    if slash:
        if "/" in prefix:
            return ["must be a name, or a DNS subdomain, one '/' and a name (such as 'example.com/my-name')"]
        if not prefix:
            found.append("the part before '/' must not be empty")
        else:
            found += [f"the part before '/' {message}" for message in dns1123_subdomain(prefix)]
    if not name:
        found.append("the name must not be empty")
        return found
    if len(name) > QUALIFIED_NAME_MAX:
        found.append(f"the name {_too_long(QUALIFIED_NAME_MAX)}")
    if not _QUALIFIED.fullmatch(name):
        found.append(
            "the name must be letters, digits, '-', '_' and '.', and start and end with a letter or digit "
            "(such as 'my.name')"
        )
    return found


def label_value(text: str) -> list[str]:
    """A label's value: empty, or letters, digits, '-', '_' and '.', up to 63."""
    found = []
    if len(text) > LABEL_VALUE_MAX:
        found.append(_too_long(LABEL_VALUE_MAX))
    if text and not _QUALIFIED.fullmatch(text):
        found.append(
            "must be empty, or letters, digits, '-', '_' and '.', starting and ending with a letter or digit "
            "(such as 'my_value')"
        )
    return found


def env_var_name(text: str) -> list[str]:
    """The name of a container's environment variable: printable ASCII without '=' (as Kubernetes since 1.32)."""
    if not text:
        return ["must not be empty"]
    if not _PRINTABLE_BUT_EQUALS.fullmatch(text):
        return ["must be printable ASCII characters other than '='"]
    return []


def config_map_key(text: str) -> list[str]:
    """A key in a ConfigMap's or Secret's data: it becomes a file's name."""
    found = []
    if len(text) > CONFIG_MAP_KEY_MAX:
        found.append(_too_long(CONFIG_MAP_KEY_MAX))
    if not _CONFIG_MAP_KEY.fullmatch(text):
        found.append("must be letters, digits, '-', '_' and '.' (such as 'key.name')")
    if text == ".":
        found.append("must not be '.'")
    elif text.startswith(".."):
        found.append("must not start with '..'")
    return found


def port_name(text: str) -> list[str]:
    """The name of a container's port (RFC 6335: IANA_SVC_NAME)."""
    found = []
    if len(text) > PORT_NAME_MAX:
        found.append(_too_long(PORT_NAME_MAX))
    if not _PORT_NAME_CHARACTERS.fullmatch(text):
        found.append("must be lower-case letters, digits and '-'")
        return found
    if not re.search(r"[a-z]", text):
        found.append("must contain at least one letter")
    if "--" in text:
        found.append("must not contain two '-' in a row")
    if text.startswith("-") or text.endswith("-"):
        found.append("must not start or end with '-'")
    return found


def path_segment(text: str, *, prefix: bool = False) -> list[str]:
    """A name that only has to fit into a URL's path (RBAC roles, bindings): not '.', not '..', no '/' and no '%'."""
    found = [f"must not contain '{character}'" for character in "/%" if character in text]
    if not prefix and text in (".", ".."):
        found.append(f"must not be '{text}'")
    return found


def generate_name(base: str) -> str:
    """A fresh name for `metadata.generateName`: the base, cut to fit a DNS label, and five random characters."""
    return base[:_GENERATED_BASE_MAX] + random_suffix()


def random_suffix(length: int = _SUFFIX_LENGTH) -> str:
    """Random characters that are safe in any name."""
    return "".join(secrets.choice(_SAFE_ALPHABET) for _ in range(length))


def _too_long(limit: int) -> str:
    return f"must be no more than {limit} characters"
