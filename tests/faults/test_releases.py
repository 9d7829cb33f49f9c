"""Whatever happens in a release, the one before it serves on or serves again."""

from __future__ import annotations

from typing import Any

import pytest
from memoryark_lab import hosts
from memoryark_lab.hosts import Host
from two_services import NAME, OLD, begin, deploy, greeting, serves, wait_until

NEW = {"environment": {"GREETING": "new"}}
# Never healthy, and soon known not to be.
SICK = {**NEW, "healthcheck": {"test": ["CMD", "false"], "interval": "5s", "timeout": "5s", "retries": 1}}


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


@pytest.mark.parametrize(
    "command",
    ["rm {}", ": > {}", "truncate --size=100 {}", "sed -i s/10.99.2/10.99.7/ {}"],
    ids=["missing", "empty", "torn", "of another release"],
)
def test_the_power_goes_and_a_network_is_not_as_declared(host: Host, command: str) -> None:
    file = "/etc/containers/networks/test-back-net.json"
    host.ssh(["sh", "-c", f"{command.format(file)} && sync"])
    hosts.cut_power(NAME)
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
