"""The processes of the lab, found by what they are and not by a number that was noted.

A pid that was written down outlives its process and may by then belong to another one. So the lab
notes none: each of its processes carries a path of this checkout in its arguments, and the process
table is searched for it. A crashed run then leaves nothing to be wrong about.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def split_cmdline(raw: bytes) -> list[str]:
    """The argument list in the content of ``/proc/PID/cmdline``; empty for a zombie."""
    return [os.fsdecode(part) for part in raw.removesuffix(b"\0").split(b"\0")] if raw else []


def is_program(argv: Sequence[str], program: str, *arguments: str) -> bool:
    """Whether ``argv`` runs ``program`` (start of its file name) with these consecutive arguments."""
    if not argv or not Path(argv[0]).name.startswith(program):
        return False
    width = len(arguments)
    return any(tuple(argv[at : at + width]) == arguments for at in range(1, len(argv) - width + 1))


def argv_of(pid: int) -> list[str]:
    """The arguments of a process; empty when it is gone."""
    try:
        return split_cmdline((PROC / str(pid) / "cmdline").read_bytes())
    except OSError:
        return []


def all_pids() -> Iterator[int]:
    """Every process this user can see."""
    return (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())


def find(program: str, *arguments: str) -> list[int]:
    """The processes that run ``program`` with these consecutive arguments."""
    return [pid for pid in all_pids() if is_program(argv_of(pid), program, *arguments)]


def end(pid: int, still: Callable[[int], bool], signals: Sequence[int], patience: float = 10.0) -> bool:
    """Send ``signals`` one after the other until the process has gone; true when it has.

    ``still`` is asked once the process is pinned, so that a reused pid is never hit. ``patience`` is
    the number of seconds to wait after each signal.
    """
    try:
        pinned = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if not still(pid):
            return True
        for number in signals:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pinned, number)
            if select.select([pinned], [], [], patience)[0]:
                _reap(pid)
                return True
        return False
    finally:
        os.close(pinned)


def _reap(pid: int) -> None:
    """Collect the process when it is a child of ours, so that it does not stay as a zombie."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def ancestors(pid: int) -> set[int]:
    """``pid`` and the processes above it."""
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        pid = _parent(pid)
    return found


def _parent(pid: int) -> int:
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])  # the name before it may hold anything
