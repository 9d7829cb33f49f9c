"""The way into the hosts: keys, the OpenSSH configuration and connections that are shared."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memoryark_lab import files, processes
from memoryark_lab.errors import LabError
from memoryark_lab.paths import STATE

CONFIG = STATE / "ssh_config"
KEY = STATE / "id_ed25519"
KNOWN_HOSTS = STATE / "known_hosts"
USER = "root"

_END = (signal.SIGTERM, signal.SIGKILL)
_HOST_KEY_TYPES = ("ed25519", "ecdsa", "rsa")


@dataclass(frozen=True)
class Entry:
    """One host as OpenSSH must know it."""

    name: str
    port: int
    address: str
    host_keys: Mapping[str, str]


def outside_alias(name: str) -> str:
    """The name under which the host is reached by its lab address, from inside the namespace."""
    return f"{name}-outside"


def control_path(sockets: Path, alias: str) -> Path:
    """The socket that connections to ``alias`` share."""
    return sockets / f"{alias}.ssh"


def render_config(entries: Iterable[Entry], key: Path, known_hosts: Path, sockets: Path) -> str:
    """The OpenSSH client configuration of all hosts."""
    blocks = ["# Made by `lab`; changes are lost.\n"]
    for entry in entries:
        blocks.append(_block(entry.name, "127.0.0.1", entry.port))
        blocks.append(_block(outside_alias(entry.name), entry.address, 22))
        names = f"{entry.name} {outside_alias(entry.name)}"
        blocks.append(
            f"Host {names}\n"
            f"  User {USER}\n  HostKeyAlias {entry.name}\n"
            f'  IdentityFile "{key}"\n  IdentitiesOnly yes\n'
            f'  UserKnownHostsFile "{known_hosts}"\n  StrictHostKeyChecking accept-new\n'
            f"  ControlMaster auto\n  ControlPath {sockets}/%n.ssh\n  ControlPersist 10m\n"
            "  ServerAliveInterval 15\n  ServerAliveCountMax 8\n  LogLevel ERROR\n"
        )
    return "\n".join(blocks)


def _block(alias: str, address: str, port: int) -> str:
    return f"Host {alias}\n  HostName {address}\n  Port {port}\n"


def render_known_hosts(entries: Iterable[Entry]) -> str:
    """The public host keys of all hosts, in the format of ``known_hosts``."""
    return "".join(
        f"{entry.name} {' '.join(content.split()[:2])}\n"
        for entry in entries
        for key, content in sorted(entry.host_keys.items())
        if key.endswith(".pub")
    )


def write_config(entries: list[Entry]) -> None:
    """Write configuration and known hosts of exactly these hosts."""
    files.write(KNOWN_HOSTS, render_known_hosts(entries), 0o600)
    files.write(CONFIG, render_config(entries, KEY, KNOWN_HOSTS, files.runtime_dir()))


def client_key() -> str:
    """The public half of the checkout's key, made when missing."""
    if not KEY.is_file():
        KEY.parent.mkdir(parents=True, exist_ok=True)
        _keygen(KEY, "ed25519", "memoryark-lab")
    return KEY.with_name(KEY.name + ".pub").read_text()


def new_host_keys() -> dict[str, str]:
    """Fresh host keys of all usual types: file name in /etc/ssh to content.

    Made here, since a slow host takes many seconds to make its own.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for kind in _HOST_KEY_TYPES:
            _keygen(directory / f"ssh_host_{kind}_key", kind, "root@lab")
        return {path.name: path.read_text() for path in sorted(directory.iterdir())}


def _keygen(path: Path, kind: str, comment: str) -> None:
    done = subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", comment, "-f", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"ssh-keygen cannot make {path}: {done.stderr.strip()}")


def argv(alias: str, command: Iterable[str] = (), options: Iterable[str] = ()) -> list[str]:
    """The ssh command line to a host."""
    return ["ssh", "-F", str(CONFIG), *options, alias, *command]


def close(name: str) -> None:
    """End the shared connections to a host, also those left by a crashed run; what they carried is lost."""
    for alias in (name, outside_alias(name)):
        path = control_path(files.runtime_dir(), alias)
        _end_masters(path)
        path.unlink(missing_ok=True)


def _end_masters(path: Path) -> None:
    def is_one(pid: int) -> bool:
        return is_master(processes.argv_of(pid), path)

    for pid in processes.all_pids():
        if is_one(pid):
            processes.end(pid, is_one, _END)


def is_master(argv: Sequence[str], path: Path) -> bool:
    """Whether this is the background process that OpenSSH keeps for the control socket ``path``."""
    return bool(argv) and argv[0].startswith(f"ssh: {path} [mux]")
