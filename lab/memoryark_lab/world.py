"""The outside world of a deployment: its authority, its secrets, and the LINE platform.

``STATE/world.json`` tells the lab's inventory what it needs to know of it. Everything secret is made
at random and lives no longer than the lab.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from line_platform.client import Control
from line_platform.errors import ControlError

from memoryark_lab import files, network, processes
from memoryark_lab.authority import ensure_authority
from memoryark_lab.errors import LabError
from memoryark_lab.hosts import Host, all_hosts
from memoryark_lab.paths import STATE

LINE_NAMES = ("api.line.me", "api-data.line.me")
WEBHOOK_PATH = "/webhook/line"


def domain(host: str) -> str:
    """The name under which members open the archive on a host of the lab."""
    return f"photos.{host}.memoryark.test"


def line_domain(host: str) -> str:
    """The name to which LINE sends webhooks for a host of the lab."""
    return f"line.{host}.memoryark.test"


def webhook_url(host: str) -> str:
    """Where LINE sends webhooks for a host of the lab."""
    return f"https://{line_domain(host)}{WEBHOOK_PATH}"


def control() -> Control:
    """The handle of the LINE platform stand-in."""
    # A unix socket's path must be short; the lab keeps a directory for that.
    return Control(_control_socket())


def facts() -> dict[str, Any]:
    """What the inventory knows of this world; made on first use."""
    path = STATE / "world.json"
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return known
    made = {
        "channel_id": str(secrets.randbelow(9 * 10**9) + 10**9),
        "line_address": network.LINE_PLATFORM,
        "secrets": {
            "line_channel_access_token": secrets.token_urlsafe(96),
            "line_channel_secret": secrets.token_hex(16),
            "internal_api_token": secrets.token_urlsafe(32),
            "jwt_secret": secrets.token_urlsafe(32),
        },
    }
    files.write(path, json.dumps(made, indent=2) + "\n", 0o600)
    return made


def _control_socket() -> Path:
    return files.runtime_dir() / "line.sock"


def _state_argument() -> str:
    """What the lab knows the server's process by."""
    return f"--state-dir={STATE / 'line-platform'}"


def _command(names: list[Host]) -> list[str]:
    authority = ensure_authority()
    certificate = authority.ensure_certificate("line-platform", LINE_NAMES)
    known = [
        f"--resolve={name}={host.address}"
        for host in names
        for name in (domain(host.name), line_domain(host.name))
    ]
    return [
        sys.executable,
        "-m",
        "line_platform",
        _state_argument(),
        f"--listen={network.LINE_PLATFORM}:443",
        f"--certificate={certificate.certificate}",
        f"--key={certificate.key}",
        f"--ca={authority.certificate}",
        f"--control-socket={_control_socket()}",
        *known,
    ]


def _running() -> int | None:
    return next(iter(processes.find("python", "-m", "line_platform", _state_argument())), None)


def up() -> dict[str, Any]:
    """Make sure that authority, certificates and the LINE platform are there for all hosts of the lab.

    Returns what the inventory knows. The stand-in is started anew when hosts have come or gone.
    """
    known = facts()
    hosts = all_hosts()
    authority = ensure_authority()
    for host in hosts:
        authority.ensure_certificate(f"edge-{host.name}", [domain(host.name), line_domain(host.name)])
    command = _command(hosts)
    pid = _running()
    if pid is not None and processes.argv_of(pid)[1:] != command[1:]:
        down()
        pid = None
    if pid is None:
        _start(command)
    line = control()
    channel = known["channel_id"]
    line.set_channel(channel, secret=known["secrets"]["line_channel_secret"])
    line.issue_token(channel, value=known["secrets"]["line_channel_access_token"])
    return known


def _start(command: list[str]) -> None:
    (STATE / "line-platform").mkdir(mode=0o700, parents=True, exist_ok=True)
    log = STATE / "line-platform" / "server.log"
    with log.open("w", encoding="utf-8") as out:
        subprocess.Popen(
            network.outside(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        control().wait_until_ready(30)
    except ControlError as error:
        raise LabError(f"the LINE platform does not start: {error}; it said: {_tail(log)}") from None


def _tail(log: Path) -> str:
    return " ".join(log.read_text(encoding="utf-8").split()[-40:]) or "nothing"


def down() -> None:
    """Stop the LINE platform."""
    pid = _running()
    if pid is not None:
        processes.end(pid, lambda one: one == _running(), [signal.SIGTERM, signal.SIGKILL])


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``world up`` and ``world down`` to the lab's command line."""
    parser = subparsers.add_parser("world", help="the LINE platform and the lab's authority")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def start(_arguments: argparse.Namespace) -> int:
        up()
        print(f"the LINE platform answers at {network.LINE_PLATFORM}, outside of the hosts")
        return 0

    def stop(_arguments: argparse.Namespace) -> int:
        down()
        return 0

    actions.add_parser("up", help="start it").set_defaults(run=start)
    actions.add_parser("down", help="stop it").set_defaults(run=stop)
