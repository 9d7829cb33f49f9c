"""Whatever happens in a release, the one before it serves on or serves again."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from memoryark_lab import deployment, hosts, stages
from memoryark_lab.hosts import Host
from memoryark_lab.paths import REPO

NAME = "molecule"
CONVERGE = "molecule/containers/converge.yml"
OLD = '100% of $5 & "more"'
NEW = {"environment": {"GREETING": "new"}}
# Never healthy, and soon known not to be.
SICK = {**NEW, "healthcheck": {"test": ["CMD", "false"], "interval": "5s", "timeout": "5s", "retries": 1}}


@pytest.fixture(scope="module")
def _deployed() -> None:
    """Two small services, in a first release."""
    stages.stage(NAME, "podman")
    deployment.deploy_or_fail(NAME, playbook=CONVERGE, show=True)
    hosts.snapshot(NAME, "faults")


@pytest.fixture
def host(_deployed: None) -> Host:
    """A host with the first release, for each fault anew."""
    return hosts.restore(NAME, "faults")


def options(settings: dict[str, Any] | None = None, **pages: Any) -> list[str]:
    """Command line options that change ``pages`` by Compose keys, and settings."""
    changes = {"memoryark_compose": {"services": {"pages": pages}} if pages else {}, **(settings or {})}
    return ["--extra-vars", json.dumps(changes)]


def deploy(settings: dict[str, Any] | None = None, **pages: Any) -> deployment.Run:
    return deployment.deploy(NAME, *options(settings, **pages), playbook=CONVERGE)


def begin(**pages: Any) -> subprocess.Popen[bytes]:
    """A deployment that goes on while the test does something else."""
    command = deployment.playbook_command(NAME, *options(**pages), playbook=CONVERGE)
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_until(what: str, done: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.5)


def greeting(host: Host) -> str:
    """What the container that runs says, nothing if none does."""
    return host.ssh(["podman", "exec", "pages", "sh", "-c", 'echo "$GREETING"'], check=False).stdout.strip()


def serves(host: Host) -> bool:
    fetch = ["podman", "exec", "pages", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/"]
    return host.ssh(fetch, check=False).returncode == 0


def in_trial(host: Host) -> bool:
    """Whether a release is being tried and has come to its changed container."""
    state = host.ssh(["systemctl", "is-active", "memoryark-pages"], check=False).stdout.strip()
    trial = host.ssh(["test", "-e", "/run/systemd/system/memoryark-pages.service"], check=False)
    return trial.returncode == 0 and state == "activating"


def assert_old_release_serves(host: Host) -> None:
    wait_until("the old release", lambda: greeting(host) == OLD and serves(host))
    run = deploy()
    assert (run.code, run.changed) == (0, 0), run.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({**NEW, "command": ["-h"]}, "did not become healthy"),
        (SICK, "did not become healthy"),
        (
            {
                **NEW,
                "entrypoint": ["timeout", "25", "nginx", "-e", "stderr"],
                "deploy": {"update_config": {"monitor": "60s"}},
            },
            "became healthy and failed within 60 s",
        ),
    ],
    ids=["exits", "never healthy", "dies in the monitor window"],
)
def test_a_container_that_fails(host: Host, change: dict[str, Any], words: str) -> None:
    run = deploy(**change)
    assert run.code != 0
    said = " ".join(run.output.split())
    assert words in said, said
    assert "Release 1 is back and healthy." in said
    assert_old_release_serves(host)


def test_the_registry_is_gone(host: Host) -> None:
    run = deploy({"memoryark_images": {"queue": _elsewhere(), "pages": _elsewhere()}})
    assert run.code != 0
    assert "cannot be reached" in run.output
    assert_old_release_serves(host)


def _elsewhere() -> str:
    return f"127.0.0.1:9/memoryark/none@sha256:{'0' * 64}"


def test_the_disk_is_full(host: Host) -> None:
    free = "df --output=avail -k / | tail -n 1"
    host.ssh(
        ["sh", "-c", f"fallocate -l $(($({free}) - 24))K /fill; dd if=/dev/zero of=/fill2 bs=4k; sync"],
        check=False,
    )
    run = deploy({"memoryark_disk_needed": "1K"}, **NEW)
    assert run.code != 0
    assert "No space left" in run.output, run.output
    assert greeting(host) == OLD
    host.ssh(["rm", "-f", "/fill", "/fill2"])
    assert_old_release_serves(host)
    run = deploy(**NEW)
    assert run.code == 0, run.output
    assert greeting(host) == "new"


def test_the_power_goes_in_the_middle(host: Host) -> None:
    running = begin(**SICK)
    wait_until("the trial", lambda: in_trial(host))
    hosts.cut_power(NAME)
    running.kill()
    running.wait()
    assert_old_release_serves(host)


def test_the_program_on_the_host_is_killed_in_the_middle(host: Host) -> None:
    running = begin(**SICK)
    wait_until("the trial", lambda: in_trial(host))
    host.ssh(["pkill", "--signal", "KILL", "--full", "memoryark.ops.release|AnsiballZ_release"], check=False)
    running.wait(timeout=120)
    run = deploy()
    assert run.code == 0, run.output
    assert_old_release_serves(host)


def test_the_control_node_is_lost_in_the_middle(host: Host) -> None:
    running = begin(**SICK)
    wait_until("the trial", lambda: in_trial(host))
    running.kill()
    running.wait()
    # The program on the host goes on to the end, by itself.
    wait_until("the end of the release", lambda: not in_trial(host) and greeting(host) == OLD, 300)
    assert_old_release_serves(host)


def test_two_runs_at_once(host: Host) -> None:
    running = begin(**SICK)
    wait_until("the trial", lambda: in_trial(host))
    second = deploy(**NEW)
    assert second.code != 0
    assert "another deployment is at work" in second.output
    running.wait(timeout=300)
    assert_old_release_serves(host)
