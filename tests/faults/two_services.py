"""What the faults happen to: a host of the lab on which two small services were deployed.

The first half is for the whole product as well.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

from memoryark_lab import deployment, hosts
from memoryark_lab.hosts import Host
from memoryark_lab.paths import REPO

NAME = "molecule"
ROLLBACK = "playbooks/rollback.yml"
# Never healthy, soon known not to be, and with something to say about it.
NEVER_HEALTHY = {
    "test": ["CMD-SHELL", "echo nothing is well here; exit 1"],
    "interval": "5s",
    "timeout": "5s",
    "retries": 1,
    "start_period": "0s",
}


def start(*options: str, playbook: str) -> subprocess.Popen[bytes]:
    """A playbook that goes on while the test does something else."""
    command = deployment.playbook_command(NAME, *options, playbook=playbook)
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def cut_power(running: subprocess.Popen[bytes]) -> None:
    """Pull the plug while a playbook runs, boot again, and let the control node give up."""
    hosts.cut_power(NAME)
    running.kill()
    running.wait()


def wait_until(what: str, done: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.5)


def said(run: deployment.Run) -> str:
    """The output without the ends of its lines, which may be anywhere."""
    return " ".join(run.output.split())


def containers(host: Host) -> dict[str, str]:
    """All containers by name, those that ended included: which one it is and when it was started."""
    lines = host.ssh(["podman", "ps", "--all", "--format", "{{.Names}} {{.ID}} {{.StartedAt}}"]).stdout
    return dict(line.split(" ", 1) for line in lines.splitlines())


def current(host: Host) -> int:
    """The number of the release that the host boots."""
    return int(host.ssh(["readlink", "/etc/memoryark/current"]).stdout.strip().rpartition("/")[2])


def is_active(host: Host, unit: str) -> bool:
    return host.ssh(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0


# --- The two services

CONVERGE = "molecule/containers/converge.yml"
ROOT = "/srv/test"
# What a host is put back to before each fault.
SNAPSHOT = "faults"
OLD = '100% of $5 & "more"'


def options(settings: dict[str, Any] | None = None, **pages: Any) -> list[str]:
    """Command line options that change ``pages`` by Compose keys, and settings."""
    changes = {"memoryark_compose": {"services": {"pages": pages}} if pages else {}, **(settings or {})}
    return ["--extra-vars", json.dumps(changes)]


def deploy(settings: dict[str, Any] | None = None, **pages: Any) -> deployment.Run:
    return deployment.deploy(NAME, *options(settings, **pages), playbook=CONVERGE)


def begin(settings: dict[str, Any] | None = None, **pages: Any) -> subprocess.Popen[bytes]:
    """A deployment that goes on while the test does something else."""
    return start(*options(settings, **pages), playbook=CONVERGE)


def greeting(host: Host) -> str:
    """What the container that runs says, nothing if none does."""
    return host.ssh(["podman", "exec", "pages", "sh", "-c", 'echo "$GREETING"'], check=False).stdout.strip()


def serves(host: Host) -> bool:
    fetch = ["podman", "exec", "pages", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/"]
    return host.ssh(fetch, check=False).returncode == 0


# What a deployment may have to do with, by kind: a command that lists it, one thing a line.
PLACES = (
    "/etc /usr/lib /usr/local /var/lib/memoryark /run/memoryark /run/systemd/system /run/systemd/generator"
)
LISTS = {
    "files": f"find {PLACES} -not -path '*/__pycache__/*' -not -type d 2>/dev/null; true",
    "containers": "podman ps --all --format '{{.Names}}'",
    "networks": "podman network ls --format '{{.Name}}'",
    "volumes": "podman volume ls --format '{{.Name}}'",
    "secrets": "podman secret ls --format '{{.Name}}'",
    "images": "podman image ls --format '{{.ID}}'",
    "units": "systemctl list-units --all --plain --no-legend 'memoryark*' | cut -d' ' -f1",
}


def listing(host: Host) -> dict[str, set[str]]:
    """What is on a host, by kind."""
    return {kind: set(host.ssh(["sh", "-c", command]).stdout.splitlines()) for kind, command in LISTS.items()}
