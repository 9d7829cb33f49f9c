"""A container registry on this machine's loopback, for the disposable hosts to pull from.

Debian's ``docker-registry`` with its storage in ``CACHE``: every checkout may run its own process on
the same storage, as registries store blobs under their own hash and replace files atomically.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import LabError
from .paths import CACHE, STATE

STORAGE = CACHE / "registry"
GUEST_HOST = "10.0.2.2"  # the loopback of this machine as QEMU's user-mode network shows it to a guest
_START_SECONDS = 15.0
_STOP_SECONDS = 10.0
_RELEASE_SECONDS = 2.0


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    port: int
    pid: int
    began: int
    """When the process started, in clock ticks after boot: tells it from a later owner of its pid."""

    @property
    def address(self) -> str:
        """``host:port`` as this machine reaches it."""
        return f"127.0.0.1:{self.port}"

    @property
    def guest_address(self) -> str:
        """``host:port`` as a disposable host reaches it."""
        return f"{GUEST_HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL on this machine."""
        return f"http://{self.address}"


def process_start(pid: int) -> int | None:
    """Return when a process started, in clock ticks after boot; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold spaces and parentheses of its own.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def answers(port: int, timeout: float = 2.0) -> bool:
    """Tell whether a registry answers on a loopback port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=timeout) as answer:
            return "Docker-Distribution-Api-Version" in answer.headers
    except (OSError, urllib.error.URLError):
        return False


def _bindable(port: int) -> int | None:
    """Return the port if a server could listen on it (0: any port); else None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    return None


def _free_port(preferred: int) -> int:
    """Return the preferred port if nobody listens on it, else one that the kernel picks."""
    port = _bindable(preferred) or _bindable(0)
    if port is None:
        raise LabError("no free port on the loopback interface")
    return port


def _config(port: int, storage: Path) -> str:
    # JSON is YAML. No blob cache: it would go on claiming blobs after someone emptied CACHE.
    return json.dumps(
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(storage)},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": f"127.0.0.1:{port}", "secret": secrets.token_hex(16)},
        },
        indent=2,
    )


def _remembered(state: Path) -> dict[str, int]:
    try:
        data = json.loads((state / "registry.json").read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def status(state: Path = STATE) -> Registry | None:
    """Return the registry of this checkout if its process lives."""
    known = _remembered(state)
    try:
        registry = Registry(port=known["port"], pid=known["pid"], began=known["began"])
    except KeyError:
        return None
    return registry if process_start(registry.pid) == registry.began else None


def up(state: Path = STATE, storage: Path = STORAGE) -> Registry:
    """Start the registry unless it runs already; its port stays the same as long as it is free."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "registry.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _up(state, storage)


def _up(state: Path, storage: Path) -> Registry:
    running = status(state)
    if running and answers(running.port):
        return running
    if running:
        down(state)
    program = shutil.which("docker-registry")
    if program is None:
        raise LabError("docker-registry is missing; install Debian's package docker-registry")
    storage.mkdir(parents=True, exist_ok=True)
    port = _free_port(_remembered(state).get("port", 0))
    config = state / "registry.yml"
    config.touch(mode=0o600)
    config.write_text(_config(port, storage))
    log = state / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "serve", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    began = process_start(process.pid)
    deadline = time.monotonic() + _START_SECONDS
    while began is not None and not answers(port):
        if process.poll() is not None:
            began = None
        elif time.monotonic() > deadline:
            process.kill()
            process.wait()
            began = None
        else:
            time.sleep(0.05)
    if began is None:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise LabError(f"docker-registry did not start; {log}:\n{tail}")
    registry = Registry(port=port, pid=process.pid, began=began)
    fresh = state / f"registry.json.{os.getpid()}"
    fresh.write_text(json.dumps(asdict(registry)))
    fresh.replace(state / "registry.json")
    return registry


def down(state: Path = STATE) -> bool:
    """Stop the registry of this checkout; False if it was not running. Its port is remembered."""
    registry = status(state)
    if registry is None:
        return False
    os.kill(registry.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while process_start(registry.pid) == registry.began:
        if time.monotonic() > deadline:
            os.kill(registry.pid, signal.SIGKILL)
            deadline += _STOP_SECONDS
        # Collects it if it is a child of this very process, which would otherwise stay a zombie.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(registry.pid, os.WNOHANG)
        time.sleep(0.05)
    # The first thread of a process may be gone while others still hold its socket.
    deadline = time.monotonic() + _RELEASE_SECONDS
    while _bindable(registry.port) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return True


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``registry up|down|status`` to the lab's command line."""
    parser = subparsers.add_parser("registry", help="container registry on this machine's loopback")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def show(registry: Registry | None) -> int:
        if registry is None:
            print("down")
            return 1
        print(f"up at {registry.url} (guests: {registry.guest_address}), pid {registry.pid}")
        return 0

    def stop(_: argparse.Namespace) -> int:
        print("stopped" if down() else "was not running")
        return 0

    start = actions.add_parser("up", help="start it unless it runs already")
    start.set_defaults(run=lambda _: show(up()))
    actions.add_parser("down", help="stop it; what it stores stays").set_defaults(run=stop)
    actions.add_parser("status", help="exit 1 if it is down").set_defaults(run=lambda _: show(status()))
