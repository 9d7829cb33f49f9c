"""Whatever happens in a release, the one before it serves on or serves again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from memoryark_lab import deployment, hosts, ssh
from memoryark_lab.hosts import Host
from memoryark_lab.images import known
from two_services import (
    NAME,
    NEVER_HEALTHY,
    OLD,
    ROLLBACK,
    ROOT,
    begin,
    containers,
    current,
    cut_power,
    deploy,
    greeting,
    is_active,
    said,
    serves,
    wait_until,
)

NEW: dict[str, Any] = {"environment": {"GREETING": "new"}}
SICK: dict[str, Any] = {**NEW, "healthcheck": NEVER_HEALTHY}


def is_tried(host: Host) -> bool:
    """Whether a release is being tried that has the changed container."""
    return (
        host.ssh(["test", "-e", "/run/systemd/system/memoryark-pages.service"], check=False).returncode == 0
    )


def in_trial(host: Host) -> bool:
    """Whether a release is being tried and has come to its changed container."""
    state = host.ssh(["systemctl", "is-active", "memoryark-pages"], check=False).stdout.strip()
    return is_tried(host) and state == "activating"


def runs(host: Host, command: str) -> bool:
    """Whether a process runs, in a container or not, whose command line begins with a regular expression."""
    return host.ssh(["pgrep", "--full", f"^{command}"], check=False).returncode == 0


def assert_release_serves(host: Host, says: str = OLD, **pages: Any) -> None:
    """A release serves, the old one without ``pages``, and a deployment of it finds nothing to do."""
    wait_until(f"the release that says {says}", lambda: greeting(host) == says and serves(host))
    run = deploy(**pages)
    assert (run.code, run.changed) == (0, 0), run.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({**NEW, "command": ["-h"]}, "did not become healthy"),
        (SICK, "exit code 1 --- nothing is well here"),
        (
            {
                **NEW,
                "entrypoint": ["timeout", "25", "nginx", "-e", "stderr", "-g", "daemon off;"],
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
    assert words in said(run), run.output
    assert "Release 1 is back and healthy." in said(run)
    assert_release_serves(host)


@pytest.mark.parametrize(
    ("settings", "pages", "words"),
    [
        # Nor would Podman 5.4.2 know the key that this brings.
        ({}, {"dns": ["192.0.2.53\nMemory=1g"]}, ["dns[0]: ", "has a character that no text may have here"]),
        # Quadlet takes such a name for a unit of its own kind, and there is none.
        (
            {"memoryark_compose": {"volumes": {"jobs": {"name": "jobs.volume"}}}},
            {},
            ["uadlet", "memoryark-queue"],
        ),
    ],
    ids=["a value that brings a key of its own", "a value that the generator refuses"],
)
def test_a_bad_unit_stops_nothing(
    host: Host, settings: dict[str, Any], pages: dict[str, Any], words: list[str]
) -> None:
    before = containers(host)
    run = deploy(settings, **pages)
    assert run.code != 0
    for word in words:
        assert word in said(run), run.output
    assert containers(host) == before
    assert_release_serves(host)


def test_a_secret_without_a_value_stops_nothing(host: Host) -> None:
    before = containers(host)
    run = deploy({"memoryark_secrets": {}})
    assert run.code != 0
    assert "secret 'probe_token' has no value; set memoryark_secrets.probe_token" in said(run), run.output
    assert containers(host) == before
    assert_release_serves(host)


def test_a_secret_that_somebody_removed_comes_back_without_a_restart(host: Host) -> None:
    names = ["podman", "secret", "ls", "--format", "{{.Name}}"]
    secret = host.ssh(names).stdout.strip()
    assert secret.startswith("memoryark-probe_token-")
    before = containers(host)
    host.ssh(["podman", "secret", "rm", secret])
    # A release that is kept has the names of its secrets and not their values.
    back = deployment.deploy(NAME, "-e", f"memoryark_root={ROOT}", "-e", "to=1", playbook=ROLLBACK)
    assert back.code != 0
    assert f"the host lacks {secret}; deploy its inventory instead" in said(back), back.output
    run = deploy()
    assert (run.code, run.changed) == (0, 1), run.output
    assert host.ssh(names).stdout.strip() == secret
    assert containers(host) == before
    assert_release_serves(host)


def test_the_registry_is_gone(host: Host) -> None:
    run = deploy({"memoryark_images": {"queue": _elsewhere(), "pages": _elsewhere()}})
    assert run.code != 0
    assert "cannot be reached" in run.output
    assert_release_serves(host)


def _elsewhere() -> str:
    return f"127.0.0.1:9/memoryark/none@sha256:{'0' * 64}"


def test_the_disk_is_full(host: Host) -> None:
    address = host.ssh(
        [
            "podman",
            "inspect",
            "--format",
            "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}",
            "pages",
        ]
    ).stdout.split()[0]
    before = containers(host)
    free = "df --output=avail -k / | tail -n 1"
    host.ssh(
        ["sh", "-c", f"fallocate -l $(($({free}) - 24))K /fill; dd if=/dev/zero of=/fill2 bs=4k; sync"],
        check=False,
    )
    run = deploy({"memoryark_disk_needed": "0"}, **NEW)
    assert run.code != 0
    assert "No space left" in run.output, run.output
    # Podman itself cannot run a command in a container now, and who visits does not notice.
    visit = "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=10).read()"
    host.ssh(["python3", "-c", visit, f"http://{address}:8080/"])
    host.ssh(["rm", "-f", "/fill", "/fill2"])
    assert containers(host) == before
    assert_release_serves(host)
    run = deploy(**NEW)
    assert run.code == 0, run.output
    assert greeting(host) == "new"


@dataclass(frozen=True)
class Phase:
    """A moment in a release that changes ``pages`` and images: how to know it, and the release after a boot."""

    reached: Callable[[Host], bool]
    pages: dict[str, Any]
    images: Callable[[], dict[str, str]] = dict
    release: int = 1


def other_images() -> dict[str, str]:
    """Images of which the host lacks the second; it is large."""
    return {"queue": known()["redis"].reference, "pages": known()["prometheus"].reference}


PHASES = {
    "an image is pulled": Phase(lambda host: runs(host, r"[^ ]*podman pull "), {}, images=other_images),
    "written and not yet tried": Phase(
        # A release is written when its configuration is checked, which takes its time here.
        lambda host: runs(host, "sleep 900"),
        {**NEW, "x-memoryark": {"config": {"check": ["sleep", "900"]}}},
    ),
    "the changed container starts": Phase(in_trial, SICK),
    "in the monitor window": Phase(
        lambda host: is_tried(host) and greeting(host) == "new" and is_active(host, "memoryark-pages"),
        {**NEW, "deploy": {"update_config": {"monitor": "15m"}}},
    ),
    "right after the commit": Phase(lambda host: current(host) == 2, NEW, release=2),
}


@pytest.mark.parametrize("name", PHASES)
def test_the_power_goes_when(host: Host, name: str) -> None:
    phase = PHASES[name]
    images = phase.images()
    running = begin({"memoryark_images": images} if images else None, **phase.pages)
    wait_until(name, lambda: phase.reached(host), 300)
    cut_power(running)
    assert current(host) == phase.release
    if phase.release == 1:
        assert_release_serves(host)
    else:
        assert_release_serves(host, "new", **phase.pages)
    for image in images.values():
        # What had come of it is not in the way.
        host.ssh(["podman", "pull", "--quiet", image])


@pytest.mark.parametrize(
    "command",
    ["rm {}", ": > {}", "truncate --size=100 {}", "sed -i s/10.99.2/10.99.7/ {}"],
    ids=["missing", "empty", "torn", "of another release"],
)
def test_the_power_goes_and_a_network_is_not_as_declared(host: Host, command: str) -> None:
    file = "/etc/containers/networks/test-back-net.json"
    host.ssh(["sh", "-c", f"{command.format(file)} && sync"])
    hosts.cut_power(NAME)
    assert_release_serves(host)


def test_the_program_on_the_host_is_killed_in_the_middle(host: Host) -> None:
    running = begin(**SICK)
    wait_until("the trial", lambda: in_trial(host))
    host.ssh(["pkill", "--signal", "KILL", "--full", "memoryark.ops.release|AnsiballZ_release"], check=False)
    running.wait(timeout=120)
    run = deploy()
    assert run.code == 0, run.output
    assert_release_serves(host)


def test_the_control_node_is_lost_in_the_middle(host: Host) -> None:
    running = begin(**SICK)
    wait_until("the trial", lambda: in_trial(host))
    running.kill()
    running.wait()
    # The program on the host goes on to the end, by itself.
    wait_until("the end of the release", lambda: not in_trial(host) and greeting(host) == OLD, 300)
    assert_release_serves(host)


def test_the_connection_is_lost_in_the_middle(host: Host) -> None:
    running = begin(**SICK)
    wait_until("the trial", lambda: in_trial(host))
    # Both ends of all connections, the one that this command comes by included. The playbook lives.
    host.ssh(["pkill", "--signal", "KILL", "--exact", "sshd-session"], check=False)
    ssh.close(NAME)
    assert running.wait(timeout=120) != 0
    wait_until("the end of the release", lambda: not is_tried(host) and greeting(host) == OLD, 300)
    assert_release_serves(host)


def test_two_runs_at_once(host: Host) -> None:
    running = begin(**SICK)
    wait_until("the trial", lambda: in_trial(host))
    second = deploy(**NEW)
    assert second.code != 0
    assert "another deployment is at work" in second.output
    running.wait(timeout=300)
    assert_release_serves(host)
