from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import names

Check = Callable[[str], list[str]]


def prefix(check: Callable[..., list[str]]) -> Check:
    return lambda text: check(text, prefix=True)


@pytest.mark.parametrize(
    ("check", "valid", "invalid"),
    [
        (
            names.dns1123_label,
            ["a", "0", "a-b", "a--b", "0a9", "x" * 63],
            ["", "-a", "a-", "A", "a.b", "a_b", "a b", "é", "x" * 64, "a\n"],
        ),
        (prefix(names.dns1123_label), ["a-", "a", "web-"], ["", "-", "-a", "a."]),
        (
            names.dns1123_subdomain,
            ["a", "a.b", "0.1", "a-b.c", "x" * 253],
            ["", ".", "a.", ".a", "a..b", "a-.b", "A.b", "a_b", "x" * 254],
        ),
        (prefix(names.dns1123_subdomain), ["a-", "a.b-"], ["", "a.", "-"]),
        (names.dns1035_label, ["a", "a0", "a-b"], ["", "0a", "-a", "a-", "a.b", "x" * 64]),
        (
            names.qualified_name,
            ["a", "A.b_c-d", "1", "example.com/a", "a/b", "x" * 253 + "/" + "y" * 63],
            ["", "/a", "a/", "a/b/c", "-a", "a-", "A/b", "a b", "é", "x" * 254 + "/a", "y" * 64, "a_/b"],
        ),
        (names.label_value, ["", "a", "A.b_c-d", "1", "x" * 63], ["-", "a-", ".a", "a b", "a/b", "é", "x" * 64]),
        (names.env_var_name, ["A", "a.b-c", "1A", "A B", "~", "!"], ["", "A=B", "=", "é", "a\n", "\x7f"]),
        (
            names.config_map_key,
            ["a", "A_b-c.d", ".hidden", "x" * 253],
            ["", ".", "..", "..a", "a/b", "a b", "x" * 254],
        ),
        (
            names.port_name,
            ["http", "a", "http-2", "1a", "x" * 15],
            ["", "1", "12-3", "HTTP", "a--b", "-a", "a-", "a_b", "x" * 16],
        ),
        (names.path_segment, ["a", "system:node", "A b", "..."], [".", "..", "a/b", "a%b"]),
    ],
)
def test_names(check: Check, valid: list[str], invalid: list[str]) -> None:
    for text in valid:
        assert check(text) == [], text
    for text in invalid:
        messages = check(text)
        assert messages, text
        assert all(messages)


def test_each_fault_is_told() -> None:
    assert len(names.dns1123_label("X" * 64)) == 2
    assert len(names.qualified_name("A/-")) == 2
    assert len(names.port_name("-----------------")) == 4


@given(st.text(max_size=300).map(lambda text: text + "-") | st.just(""))
def test_generated_names(base: str) -> None:
    name = names.generate_name(base)
    assert len(name) <= 63
    assert name.startswith(base[:58])
    assert names.dns1123_label(name[-5:]) == []


def test_a_generated_name_from_a_valid_base_is_valid() -> None:
    assert names.dns1123_label(names.generate_name("web-" * 30)) == []
    drawn = {names.generate_name("web-") for _ in range(100)}
    assert len(drawn) > 95
    assert not set("".join(name[4:] for name in drawn)) & set("aeiou013")
