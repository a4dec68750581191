from __future__ import annotations

from pathlib import Path

import pytest

from provision.machine_image.apt_sources import Source, for_release, of_machine, parse

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.test/debian/
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.test/security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main
"""
MAIN = Source("http://m.test/debian", "bookworm", ("main",))


def test_deb822() -> None:
    found = list(parse(DEB822, deb822=True))
    keyring = "/usr/share/keyrings/debian.gpg"
    assert found == [
        Source("http://mirror.test/debian", "bookworm", ("main", "contrib"), keyring),
        Source("http://mirror.test/debian", "bookworm-updates", ("main", "contrib"), keyring),
        Source("http://mirror.test/security", "bookworm-security", ("main",)),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deb http://m.test/debian bookworm main", MAIN),
        ("deb http://m.test/debian/ bookworm main # comment", MAIN),
        (
            "deb [arch=amd64 signed-by=/k.gpg] http://m.test/debian bookworm main",
            Source("http://m.test/debian", "bookworm", ("main",), "/k.gpg"),
        ),
        ("deb-src http://m.test/debian bookworm main", None),
        ("# deb http://m.test/debian bookworm main", None),
        ("deb [unclosed http://m.test/debian bookworm main", None),
        ("deb http://m.test/flat ./", None),
    ],
)
def test_lines(line: str, expected: Source | None) -> None:
    assert list(parse(line, deb822=False)) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("suite", "release", "expected"),
    [
        ("bookworm", "bookworm", "bookworm"),
        ("bookworm-security", "trixie", "trixie-security"),
        ("trixie", "trixie", "trixie"),
        ("bookworm-backports", "bookworm", None),
        ("cloud-sdk-bookworm", "bookworm", None),
        ("nodistro", "bookworm", None),
    ],
)
def test_only_debians_suites_for_that_release(suite: str, release: str, expected: str | None) -> None:
    found = for_release([Source("http://m.test/d", suite, ("main",))], release, own="bookworm")
    assert [source.suite for source in found] == ([expected] if expected else [])


def test_a_machine_with_both_releases_asks_each_place_once() -> None:
    sources = [MAIN, Source(MAIN.uri, "trixie", ("main",))]
    assert [str(source) for source in for_release(sources, "trixie", own="bookworm")] == [
        "deb http://m.test/debian trixie main"
    ]


def test_of_machine(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.test/debian bookworm main\n")
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/broken.save").write_text("deb http://b.test/debian bookworm main\n")
    assert {source.uri for source in of_machine("bookworm", own="bookworm", apt=tmp_path)} == {
        "http://a.test/debian",
        "http://mirror.test/debian",
        "http://mirror.test/security",
    }
    assert of_machine("bookworm", own="", apt=tmp_path / "nowhere") == []
