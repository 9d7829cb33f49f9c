"""The lab's own network: one namespace per checkout, with a bridge that all hosts are plugged into.

Whoever runs inside the namespace stands *outside* of the hosts, like a visitor on the internet, and
reaches every port a host really opens. The namespace lives as long as its holder process.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from memoryark_lab import files, processes
from memoryark_lab.errors import LabError
from memoryark_lab.paths import STATE

PREFIX4, PREFIX6 = "192.0.2.", "2001:db8:6d61::"
GATEWAY, GATEWAY6 = PREFIX4 + "1", PREFIX6 + "1"
#: Where the LINE platform stand-in listens, inside the namespace.
LINE_PLATFORM, LINE_PLATFORM6 = PREFIX4 + "2", PREFIX6 + "2"
LENGTH4, LENGTH6 = 24, 64
_FIRST_HOST = 10

_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21


def address(number: int) -> str:
    """The IPv4 address of host ``number`` (from 0)."""
    return f"{PREFIX4}{_FIRST_HOST + number}"


def address6(number: int) -> str:
    """The IPv6 address of host ``number``; it ends in the same digits as the IPv4 address."""
    return f"{PREFIX6}{_FIRST_HOST + number}"


def may_unshare_directly(status: str) -> bool:
    """Whether the content of ``/proc/self/status`` shows the rights to make a network namespace."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            rights = int(line.split()[1], 16)
            return bool(rights >> _CAP_NET_ADMIN & 1 and rights >> _CAP_SYS_ADMIN & 1)
    return False


def unshare_argv(direct: bool, mark: Path) -> list[str]:
    """The command that starts the holder in a new namespace; ``mark`` is how it is found again."""
    user = [] if direct else ["--user", "--map-root-user"]
    addresses = [f"{GATEWAY}/{LENGTH4}", f"{LINE_PLATFORM}/{LENGTH4}"]
    addresses += [f"{GATEWAY6}/{LENGTH6}", f"{LINE_PLATFORM6}/{LENGTH6}"]
    holder = [sys.executable, "-m", "memoryark_lab.inside", "hold", str(mark), *addresses]
    return ["unshare", "--net", *user, "--", *holder]


def enter_argv(pid: int, own_user: bool, argv: Sequence[str]) -> list[str]:
    """The command that runs ``argv`` in the network namespace of ``pid``."""
    user = ["--user", "--preserve-credentials"] if own_user else []
    return ["nsenter", f"--target={pid}", "--net", *user, "--", *argv]


def _mark() -> Path:
    return STATE / "network"


def _is_holder(pid: int) -> bool:
    return processes.is_program(processes.argv_of(pid), "python", "hold", str(_mark()))


def holder() -> int | None:
    """The pid of the process that holds the namespace, or None when there is no namespace."""
    return next(iter(processes.find("python", "hold", str(_mark()))), None)


def _namespace(pid: int | str, kind: str = "net") -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return ""


def identity() -> str:
    """A name of the present namespace, empty when there is none; a later one has another name."""
    pid = holder()
    # The inode alone may be given out again by the kernel; with the holder's pid it tells enough.
    return f"{pid} {_namespace(pid)}" if pid else ""


def is_outside() -> bool:
    """Whether this very process runs inside the lab's namespace."""
    pid = holder()
    return pid is not None and _namespace("self") == _namespace(pid)


def _environment() -> dict[str, str]:
    # An ordinary user's PATH on Debian lacks the directory of ip.
    return {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


def ensure() -> int:
    """Make the namespace when there is none; the pid of its holder.

    Raises LabError when the kernel refuses namespaces to this user.
    """
    with files.locked(STATE / "network.lock", "the network"):
        return holder() or _start_holder()


def _start_holder() -> int:
    direct = may_unshare_directly(Path("/proc/self/status").read_text())
    child = subprocess.Popen(
        unshare_argv(direct, _mark()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=_environment(),
    )
    assert child.stdout and child.stderr  # noqa: S101 - both are pipes, as asked for above
    with child.stdout, child.stderr:
        if child.stdout.readline() == "ready\n":
            return child.pid
        reason = child.stderr.read().strip().splitlines()[-1:] or ["no reason was given"]
    child.wait()
    raise LabError(
        f"the lab's network namespace cannot be made: {reason[0]}; run as root, or allow it with "
        "`sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000`"
    )


def outside(argv: Sequence[str]) -> list[str]:
    """The command that runs ``argv`` in the outside world of the hosts; makes the namespace if need be."""
    if is_outside():
        return list(argv)
    pid = ensure()
    own_user = _namespace(pid, "user") != _namespace("self", "user")
    return enter_argv(pid, own_user, argv)


def open_tap(name: str) -> int:
    """A descriptor of the new tap ``name`` on the lab's bridge, to be handed to QEMU and then closed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "memoryark_lab.inside", "tap", name, str(theirs.fileno())]
        done = subprocess.run(
            outside(command),
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            env=_environment(),
            check=False,
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            raise LabError(f"no tap on the lab's network: {reason}; /dev/net/tun must be usable here")
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        return descriptors[0]


def users() -> list[int]:
    """The processes in the namespace beside its holder and the caller's own line of processes."""
    pid = holder()
    if pid is None:
        return []
    own = processes.ancestors(os.getpid())
    here = _namespace(pid)
    return [other for other in processes.all_pids() if other not in own | {pid} and _namespace(other) == here]


def release(everything: bool = False) -> None:
    """End the namespace when nobody is in it any more; with ``everything`` end those in it too."""
    with files.locked(STATE / "network.lock", "the network"):
        pid = holder()
        if pid is None:
            return
        here = _namespace(pid)
        if everything:
            for user in users():
                processes.end(user, lambda one: _namespace(one) == here, [signal.SIGTERM, signal.SIGKILL], 5)
        elif users():
            return
        processes.end(pid, _is_holder, [signal.SIGKILL])
