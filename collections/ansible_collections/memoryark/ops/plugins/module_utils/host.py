# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The managed host as the modules see it: files, Podman and systemd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

Runner = Callable[..., tuple[int, str, str]]
"""``AnsibleModule.run_command``: argument vector to exit code, output, error output."""

QUADLET_GENERATOR = "/usr/libexec/podman/quadlet"
UNIT_LABEL = "PODMAN_SYSTEMD_UNIT"
_RUNS = {"active", "reloading"}
_POLL = 1.0
# What the names of all our units with a container begin with.
PREFIX = "memoryark-"
# On networks and volumes that this project made.
OWNED_LABEL = "io.memoryark.owned"


class HostError(Exception):
    """A command on the host failed; the message is for the operator."""


class Host:
    """Runs commands through ``runner`` and touches files below ``base`` (``/`` but in tests)."""

    def __init__(self, runner: Runner, base: Path = Path("/")) -> None:
        self._runner = runner
        self._base = base

    def path(self, name: str) -> Path:
        """Return where the absolute path ``name`` is."""
        return self._base / name.lstrip("/")

    def run(
        self,
        argv: Sequence[str],
        data: str | None = None,
        env: Mapping[str, str] | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> str:
        """Return the output of a command; raises HostError with its error output.

        ``meanwhile`` is called once a second until the command has ended, which must be one that says little.
        """
        more = {"before_communicate_callback": partial(keep_calling, meanwhile)} if meanwhile else {}
        code, out, err = self._runner(
            list(argv), data=data, binary_data=data is not None, environ_update=dict(env or {}), **more
        )
        if code != 0:
            said = (err.strip() or out.strip()) or "it said nothing"
            raise HostError(f"'{' '.join(argv[:6])}' failed with exit code {code}: {said}")
        return out

    def try_run(self, argv: Sequence[str]) -> None:
        """Run a command that may fail."""
        self._runner(list(argv))

    def read(self, name: str) -> str | None:
        """Return a file's text, None if there is none. What is no text is not what we wrote."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: str | bytes, mode: int = 0o644) -> None:
        """Replace a file in one step that survives a power cut; missing directories are made."""
        target = self.path(name)
        make_directory(target.parent)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(target)
        sync_directory(target.parent)

    def append(self, name: str, text: str) -> None:
        """Add ``text`` to a file that only root may read."""
        target = self.path(name)
        make_directory(target.parent)
        with os.fdopen(
            os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640), "a", encoding="utf-8"
        ) as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())

    def list(self, name: str) -> list[str]:
        """Return the names in a directory, none if there is no such directory."""
        try:
            return sorted(path.name for path in self.path(name).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def tree(self, name: str) -> dict[str, str]:
        """Return the texts of all files below a directory by their paths in it."""
        top = self.path(name)
        files = (path for path in sorted(top.rglob("*")) if path.is_file())
        return {
            str(path.relative_to(top)): path.read_text(encoding="utf-8", errors="replace") for path in files
        }

    def read_link(self, name: str) -> str | None:
        """Return where a symbolic link points, None if there is none."""
        path = self.path(name)
        return str(path.readlink()) if path.is_symlink() else None

    def link(self, name: str, target: str) -> None:
        """Make ``name`` a symbolic link to ``target`` in one step that survives a power cut."""
        if self.read_link(name) == target:
            return
        path = self.path(name)
        make_directory(path.parent)
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(path)
        sync_directory(path.parent)

    def delete(self, name: str) -> None:
        """Delete a file if it is there."""
        self.path(name).unlink(missing_ok=True)

    def delete_tree(self, name: str) -> None:
        """Delete a directory and all in it if it is there."""
        shutil.rmtree(self.path(name), ignore_errors=True)

    def has(self, program: str) -> bool:
        """Tell whether a program is installed."""
        return shutil.which(program) is not None

    @property
    def has_podman(self) -> bool:
        """False on a host that has not been set up yet."""
        return self.has("podman")

    def podman_json(self, *argv: str) -> Any:
        """Return what a podman command prints as JSON; an empty list without Podman."""
        if not self.has_podman:
            return []
        return json.loads(self.run(["podman", *argv]) or "[]")

    def secrets(self) -> frozenset[str]:
        """Return the names of all secrets that Podman keeps."""
        if not self.has_podman:
            return frozenset()
        return frozenset(self.run(["podman", "secret", "ls", "--format={{.Name}}"]).split())

    def images(self) -> frozenset[str]:
        """Return the references of all images that Podman keeps: by digest, and the names with a tag."""
        found = self.podman_json("image", "ls", "--format=json")
        return frozenset(
            name for image in found for key in ("RepoDigests", "Names") for name in image.get(key) or ()
        )

    def unit_states(self, units: Iterable[str], *properties: str) -> dict[str, dict[str, str]]:
        """Return properties of units as systemctl shows them, by unit; names without ``.service``."""
        names = sorted(units)
        if not names:
            return {}
        shown = f"--property=Id,{','.join(properties)}"
        out = self.run(["systemctl", "show", shown, *(f"{name}.service" for name in names)])
        blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in out.split("\n\n")]
        return {block["Id"].removesuffix(".service"): block for block in blocks if "Id" in block}

    def active_units(self, units: Iterable[str]) -> frozenset[str]:
        """Return those of ``units`` (names without ``.service``) that run."""
        return running(self.unit_states(units, "ActiveState"))

    def journal(self, unit: str, lines: int = 30) -> str:
        """Return the last ``lines`` of a unit's journal since its last start."""
        return self.run(["journalctl", "--no-pager", "--output=short", f"--lines={lines}", f"--unit={unit}"])


def keep_calling(meanwhile: Callable[[], None], process: subprocess.Popen[bytes]) -> None:
    """Call ``meanwhile`` once a second until a process has ended."""
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL)
            return
        meanwhile()


def running(states: Mapping[str, Mapping[str, str]]) -> frozenset[str]:
    """Return those units that run, of ``states`` that ``Host.unit_states`` has returned."""
    return frozenset(name for name, state in states.items() if state["ActiveState"] in _RUNS)


def make_directory(directory: Path) -> None:
    """Make a directory and its parents, readable for containers whatever the umask."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)


def sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
