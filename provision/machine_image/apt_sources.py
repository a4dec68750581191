"""Where Debian's packages come from: the machine's own apt sources, narrowed to one release.

Both of apt's formats are read (sources.list(5)): one line a source, and deb822 paragraphs. Of what they name, only
Debian's own suites are taken (`bookworm`, `bookworm-updates`, `bookworm-security`): its other sources are for the
machine. If the image is of another release than the machine, the same places are asked for that release's suites.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

APT = Path("/etc/apt")
_SUFFIXES = ("", "-updates", "-security")


@dataclass(frozen=True, slots=True)
class Source:
    """One place: its URI, one suite, its components, and the keyring's path if one is named."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def __str__(self) -> str:
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {option}{self.uri} {self.suite} {' '.join(self.components)}"


def of_machine(release: str, *, own: str, apt: Path = APT) -> list[Source]:
    """This machine's sources for a release (both are Debian's code names; `own` is the machine's)."""
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    found = [
        source
        for path in files
        if path.suffix in (".list", ".sources") and path.is_file()
        for source in parse(path.read_text(encoding="utf-8", errors="replace"), deb822=path.suffix == ".sources")
    ]
    return for_release(found, release, own=own)


def for_release(sources: Iterable[Source], release: str, *, own: str) -> list[Source]:
    """Those among `sources` that have Debian's suites of `own`, for `release` instead."""
    wanted: dict[str, Source] = {}
    for source in sources:
        for name in dict.fromkeys((release, own)):
            suffix = source.suite.removeprefix(name)
            if name and source.suite.startswith(name) and suffix in _SUFFIXES and "main" in source.components:
                there = Source(source.uri, release + suffix, source.components, source.signed_by)
                wanted.setdefault(f"{there.uri} {there.suite}", there)
    return list(wanted.values())


def parse(text: str, *, deb822: bool) -> Iterator[Source]:
    """The binary package sources in a file of apt's; what is switched off or not understood is left out."""
    yield from (_paragraphs(text) if deb822 else _lines(text))


def _lines(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if not words or words[0] != "deb":
            continue
        signed_by = ""
        if len(words) > 1 and words[1].startswith("["):
            end = next((i for i, word in enumerate(words) if word.endswith("]")), None)
            if end is None:
                continue
            options = " ".join(words[1 : end + 1]).strip("[] ").split()
            signed_by = next((o.split("=", 1)[1] for o in options if o.startswith("signed-by=")), "")
            words = [words[0], *words[end + 1 :]]
        if len(words) >= 4:
            yield Source(words[1].rstrip("/"), words[2].rstrip("/"), tuple(words[3:]), signed_by)


def _paragraphs(text: str) -> Iterator[Source]:
    for paragraph in text.split("\n\n"):
        fields = _fields(paragraph)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        # A key may stand in the file itself, over several lines: that is no path.
        keyring = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield Source(uri.rstrip("/"), suite.rstrip("/"), components, keyring if keyring.startswith("/") else "")


def _fields(paragraph: str) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in paragraph.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[name] = f"{fields.get(name, '')} {line.strip()}".strip()
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields
