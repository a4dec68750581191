"""Where Ansible runs: which runtime a machine gets, and its archive's way there if the machine has none of it.

One round trip where nothing is to be done: the machine is told the keys that would do, and answers. Only then is an
archive chosen for its version of Python. Where somebody has looked at the machine a moment ago (`seen`, from `ktool
lab`), not even that one is needed.

The archive goes through the connection straight into tar: to lay it down as a file first, and to start a module of
Ansible around tar, takes a machine as long again as the unpacking.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.loader import action_loader

Base: Any = action_loader.get("ktool_action", class_only=True)
PYTHONS_MEND = "Install that version of Python on the machine, or use an image that has it."
NEEDED_MB = 400
# Loads what is compiled for one kind of machine, with every symbol; the rest runs where this does. To import it would
# load Python modules besides, and take five times as long.
CHECK = """
import ctypes, pathlib, sys
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.so*")):
    ctypes.CDLL(str(path))
"""
NO_ROOM, NOT_WHOLE, NOT_RUNNING = 10, 11, 12
# Unpacks the archive on standard input beside its place, has it ready to run, and moves it there; then it is the
# runtime in use. The one before it stays, older ones and what interrupted runs have left go.
INSTALL = """
umask 022
fail() { status=$1; cat >/dev/null; exit "$status"; }
link() { rm -f "$2.new" && ln -s "$1" "$2.new" && mv -fT "$2.new" "$2"; }
mkdir -p "$runtimes" || fail 1
free=$(($(df -k --output=avail "$runtimes" | tail -n 1) * 1024 / 1000000))
if [ "$free" -lt "$needed" ]; then echo "$free"; fail $no_room; fi
folder=$(mktemp -d "$runtimes/.new-XXXXXX") || fail 1
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
tar -xzf - -C "$folder" --no-same-owner --strip-components=3 "opt/ktool/$key" || fail $not_whole
if [ ! -x "/usr/bin/$python" ]; then
    ln -sf "/usr/local/bin/$python" "$folder/bin/python"
    printf 'home = /usr/local/bin\ninclude-system-site-packages = false\n' >"$folder/pyvenv.cfg"
fi
[ -z "$compile" ] || "$folder/bin/python" -m compileall -q "$folder/lib" || true
"$folder/bin/python" -I -S -B -c "$check" "$folder/lib" || fail $not_running
before=$(readlink "$runtimes/current" || true)
rm -rf "$runtimes/$key" && mv -T "$folder" "$runtimes/$key" && link "$key" "$runtimes/current" || fail 1
mkdir -p "${command%/*}" && link "$runtimes/current/bin/ktool" "$command" || fail 1
for old in "$runtimes"/* "$runtimes"/.new-*; do
    if [ ! -d "$old" ] || [ -L "$old" ]; then continue; fi
    case "${old##*/}" in "$key" | "$before") ;; *) rm -rf "$old" ;; esac
done
"""


class ActionModule(Base):  # type: ignore[misc]  # Ansible has no types
    """The action `ktool_runtime`."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Look, then copy and install if that is needed."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = dict(self._task.args)
        archives = [] if args.get("role") == "none" else (args.pop("archives", None) or local_archives())
        args["archives"] = []
        wanted = suitable(archives, str(args.get("role", "agent")))
        args["keys"] = [archive["key"] for archive in wanted]
        found = known(args, args.pop("seen", None) or {})
        if found is None or self._task.check_mode:
            found = self._module(args, task_vars)
        result.update(found)
        if found.get("failed") or not found.get("needs") or self._task.check_mode:
            return result
        archive = choose(wanted, set(found["interpreters"]), found["arch"], role=str(args.get("role", "agent")))
        self._install(archive)
        return {**result, "changed": True, "needs": False, "runtime": archive["key"]}

    def _install(self, archive: Mapping[str, Any]) -> None:
        """Have the runtime of an archive unpacked, and in use. AnsibleActionFail if that is impossible."""
        code, out, err = self._shell(f"sh -c {shlex.quote(script(archive))}", Path(archive["path"]).read_bytes())
        if code != 0:
            error = problem(code, out, err, archive)
            raise AnsibleActionFail(self.sentence(error), result={"error": error})

    def _module(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        found: dict[str, Any] = self._execute_module(module_name="ktool_runtime", module_args=args, task_vars=task_vars)
        return found


def known(args: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a look would find, where a look a moment ago (provision.facts) tells; None if the machine must be asked.

    It tells if no package is missing, and the machine has the runtime in use or none whatever.
    """
    commands = {str(one["command"]) for one in args.get("packages") or ()}
    if not seen or commands - {*seen["commands"]} or args.get("role") == "none":
        return None
    current = str(seen["runtime"])
    if current and (current not in args["keys"] or not seen["linked"]):
        return None
    return {
        "changed": False,
        "installed": [],
        "needs": not current,
        "arch": seen["arch"],
        "runtime": current,
        "interpreters": list(seen["interpreters"]),
        "joined": bool(seen["joined"]),
        "master": bool(seen.get("master")),
    }


def script(archive: Mapping[str, Any], *, runtimes: str = Base.RUNTIMES, command: str = Base.COMMAND) -> str:
    """The shell script that installs the runtime whose archive it gets on standard input."""
    tag = str(archive["python_tag"])
    settings = {
        "runtimes": runtimes,
        "command": command,
        "key": str(archive["key"]),
        "python": f"python{tag[2]}.{tag[3:]}",
        "compile": "" if archive.get("compiled", True) else "yes",
        "check": CHECK,
        "needed": str(NEEDED_MB),
        "no_room": str(NO_ROOM),
        "not_whole": str(NOT_WHOLE),
        "not_running": str(NOT_RUNNING),
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()) + INSTALL


def problem(status: int, out: str, err: str, archive: Mapping[str, Any]) -> dict[str, str]:
    """What a failed `script` says, as the four parts of ktool's errors."""
    said = last_words(err or out)
    if status == NO_ROOM:
        found, wanted = f"{out.strip()} MB free in {Base.RUNTIMES}", f"{NEEDED_MB} MB"
        return {"what": "there is no room for ktool's runtime", "found": found, "wanted": wanted, "mend": ""}
    if status == NOT_RUNNING:
        what, wanted = "ktool's runtime does not run on this machine", f"{archive['python_tag']} on {archive['arch']}"
    elif status == NOT_WHOLE:
        what, wanted = "ktool's runtime cannot be unpacked", "a whole archive"
    else:
        what, wanted = "ktool's runtime cannot be installed", ""
    return {"what": what, "found": said or f"status {status}", "wanted": wanted, "mend": ""}


def last_words(text: str) -> str:
    """The end of a program's output, as one line."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return "; ".join(lines[-2:])[-400:]


def suitable(archives: list[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    """The archives that have what a role needs, its own first: a control plane's has all of an agent's."""
    roles = [role, "control"] if role == "agent" else [role]
    return sorted((a for a in archives if a["role"] in roles), key=lambda a: roles.index(a["role"]))


def choose(archives: list[dict[str, Any]], tags: set[str], arch: str, *, role: str) -> dict[str, Any]:
    """The archive for a machine; made for its version of Python where none of those at hand is, if that is possible."""
    for archive in archives:
        if archive["python_tag"] in tags and archive["arch"] == arch:
            return archive
    try:
        from provision.bundle.other_python import build_for
    except ImportError:
        wanted = sorted({f"{archive['python_tag']} on {archive['arch']}" for archive in archives})
        raise AnsibleActionFail(
            f"no runtime fits this machine (found: {', '.join(sorted(tags)) or 'no Python'} on {arch}; "
            f"wanted: {', '.join(wanted)}). {PYTHONS_MEND}"
        ) from None
    from kube.errors import KtoolError
    from provision.bundle.archive import ArchiveRole
    from provision.lab_state import cache_dir

    try:
        return build_for(ArchiveRole(role), cache_dir(), tags=tags, arch=arch).described()
    except KtoolError as error:
        raise AnsibleActionFail(str(error)) from error


def local_archives() -> list[dict[str, Any]]:
    """The runtimes of the ktool that is installed where Ansible runs."""
    try:
        from kube.errors import KtoolError
        from provision.bundle.archive import archives
        from provision.lab_state import cache_dir
    except ImportError:
        raise AnsibleActionFail(
            "ktool_archives is empty, and ktool is not installed where Ansible runs "
            "(wanted: ansible-playbook of ktool's own environment, or ktool_archives from a bundle)"
        ) from None
    try:
        return [archive.described() for archive in archives(cache_dir()).values()]
    except KtoolError as error:
        raise AnsibleActionFail(str(error)) from error
