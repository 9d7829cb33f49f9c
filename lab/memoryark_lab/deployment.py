"""Runs the product's playbook against hosts of the lab, as its users do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from memoryark_lab.errors import LabError
from memoryark_lab.paths import REPO, STATE

_RECAP = re.compile(
    r"^(?P<host>\S+)\s+: ok=(?P<ok>\d+)\s+changed=(?P<changed>\d+)\s.*failed=(?P<failed>\d+)", re.M
)
HOST_MEMORY_MB = 3072


@dataclass(frozen=True)
class Run:
    """How a playbook went."""

    code: int
    changed: int
    output: str
    seconds: float


def playbook_command(host: str, *options: str, playbook: str = "site.yml") -> list[str]:
    """The command line that deploys to one host of the lab."""
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return [program, "-i", "inventories/lab", playbook, "--limit", host, *options]


def deploy(host: str, *options: str, show: bool = False, playbook: str = "site.yml") -> Run:
    """Run ``site.yml`` for one host; ``show`` passes its output on as it comes."""
    environment = {**os.environ, "MEMORYARK_LAB_STATE": str(STATE), "ANSIBLE_FORCE_COLOR": "0"}
    begun = time.monotonic()
    lines = []
    with subprocess.Popen(
        playbook_command(host, *options, playbook=playbook),
        cwd=REPO,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe, as asked for above
        for line in process.stdout:
            lines.append(line)
            if show:
                print(f"    {line}", end="", flush=True)
    output = "".join(lines)
    recap = _RECAP.search(output)
    return Run(process.returncode, int(recap["changed"]) if recap else -1, output, time.monotonic() - begun)


def deploy_or_fail(host: str, *options: str, show: bool = False, playbook: str = "site.yml") -> Run:
    """As ``deploy``; raises LabError with the end of the output when it fails."""
    run = deploy(host, *options, show=show, playbook=playbook)
    if run.code != 0:
        end = "" if show else "\n" + "\n".join(run.output.splitlines()[-40:])
        raise LabError(f"{playbook} failed on {host} with code {run.code}{end}")
    return run
