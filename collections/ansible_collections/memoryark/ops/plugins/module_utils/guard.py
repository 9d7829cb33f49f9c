# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Confirm or revert: settings that could lock the operator out go back by themselves if nobody confirms them.

What is proven is in one file, what is tried in another. A timer of the host's own puts the proven one back;
whoever comes by a new connection can prove the tried one before. Both rename the tried file, and whoever does
it first has decided. A boot knows the proven file only.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass

from ansible_collections.memoryark.ops.plugins.module_utils.host import (
    PREFIX,
    Host,
    HostError,
    sync_directory,
)

ROOT = "/etc/memoryark"


@dataclass(frozen=True)
class Guard:
    """One kind of settings: ``check`` and ``load`` are commands to which the path of a file is added.

    ``initial`` is proven before anything else is: what the host was like without this project.
    """

    name: str
    suffix: str
    check: tuple[str, ...]
    load: tuple[str, ...]
    initial: str

    @property
    def proven(self) -> str:
        """The path of what a boot uses."""
        return self._path("proven")

    @property
    def trial(self) -> str:
        """The path of what is being tried."""
        return self._path("trial")

    @property
    def reverted(self) -> str:
        """The path of what was tried last and not confirmed."""
        return self._path("reverted")

    @property
    def timer(self) -> str:
        """The unit that puts back what is proven."""
        return f"{PREFIX}revert-{self.name}"

    def _path(self, state: str) -> str:
        return f"{ROOT}/{self.name}/{state}{self.suffix}"


def attempt(host: Host, guard: Guard, text: str, seconds: int) -> None:
    """Load ``text`` for ``seconds``, or for good if it is confirmed by then. Raises HostError."""
    if host.read(guard.proven) is None:
        host.write(guard.proven, guard.initial)
    settle(host, guard)
    host.write(guard.trial, text)
    try:
        host.run([*guard.check, str(host.path(guard.trial))])
    except HostError:
        host.delete(guard.trial)
        raise
    back = shlex.join(["mv", str(host.path(guard.trial)), str(host.path(guard.reverted))])
    load = shlex.join([*guard.load, str(host.path(guard.proven))])
    host.run(
        [
            "systemd-run",
            f"--unit={guard.timer}",
            f"--description=MemoryArk: the {guard.name} as it was, unless the new one is confirmed",
            f"--on-active={seconds}",
            "--timer-property=AccuracySec=1s",
            "--collect",
            "sh",
            "-c",
            f"{back} && exec {load}",
        ]
    )
    try:
        host.run([*guard.load, str(host.path(guard.trial))])
    except HostError:
        settle(host, guard)
        raise


def confirm(host: Host, guard: Guard) -> None:
    """Prove what is tried; raises HostError if it was put back already."""
    try:
        host.path(guard.trial).replace(host.path(guard.proven))
    except FileNotFoundError:
        what = f"the new {guard.name} was not confirmed in time, the host has put the old one back"
        raise HostError(what) from None
    sync_directory(host.path(guard.proven).parent)
    host.run(["systemctl", "stop", f"{guard.timer}.timer"])


def settle(host: Host, guard: Guard) -> None:
    """End a trial that nobody has confirmed: what is proven is loaded again."""
    if host.read(guard.trial) is not None:
        host.run([*guard.load, str(host.path(guard.proven))])
        with suppress(FileNotFoundError):
            # The timer may have been quicker.
            host.path(guard.trial).replace(host.path(guard.reverted))
    # It fails when there is no such timer, or not any more.
    host.try_run(["systemctl", "stop", f"{guard.timer}.timer", f"{guard.timer}.service"])
