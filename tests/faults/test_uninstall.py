"""The project goes without a trace but its data, and comes back to the data."""

from __future__ import annotations

import json

import pytest
from ansible_collections.memoryark.ops.plugins.module_utils.uninstall import FILES, MASKS
from memoryark_lab import deployment, hosts
from memoryark_lab.hosts import Host
from two_services import (
    NAME,
    OLD,
    ROOT,
    cut_power,
    deploy,
    greeting,
    listing,
    said,
    serves,
    start,
    wait_until,
)

VOLUME = "test-jobs"
NOTE = f"{ROOT}/notes/kept"
UNINSTALL = "playbooks/uninstall.yml"
# Things of others beside the project's own, by kind.
OTHERS = {
    "files": {
        "/etc/systemd/system/other.service",
        "/etc/containers/systemd/other.txt",
        "/etc/sysctl.d/other.conf",
    },
    "networks": {"other-net"},
    "volumes": {"other-volume"},
    "secrets": {"other"},
}
# What Podman writes for these.
OTHERS_BY_PODMAN = {"files": {f"/etc/containers/networks/{name}.json" for name in OTHERS["networks"]}}


def options(*more: str) -> list[str]:
    return ["-e", f"memoryark_root={ROOT}", *more]


def uninstall(*more: str) -> deployment.Run:
    return deployment.deploy(NAME, *options(*more), playbook=UNINSTALL)


def expected(before: dict[str, set[str]], **kept: set[str]) -> dict[str, set[str]]:
    """What is to be on the host: what was there before, without what the role podman wrote, and these."""
    return {
        kind: (names - {*FILES, *MASKS}).union(
            *(more.get(kind, set()) for more in (OTHERS, OTHERS_BY_PODMAN, kept))
        )
        for kind, names in before.items()
    }


def difference(found: dict[str, set[str]], wanted: dict[str, set[str]]) -> dict[str, list[str]]:
    """What a listing has and should not, or lacks, by kind."""
    signs = {kind: [(found[kind] - wanted[kind], "+"), (wanted[kind] - found[kind], "-")] for kind in wanted}
    lines = {
        kind: [f"{sign}{name}" for names, sign in both for name in sorted(names)]
        for kind, both in signs.items()
    }
    return {kind: names for kind, names in lines.items() if names}


def below_root(host: Host) -> set[str]:
    return set(host.ssh(["sh", "-c", f"ls -A {ROOT} 2>/dev/null; true"]).stdout.split())


@pytest.fixture
def shared(host: Host) -> Host:
    """The host with data in the archive, with what the role base writes, and with things of others."""
    for path in (*FILES, *OTHERS["files"]):
        host.ssh(["sh", "-c", f"mkdir -p {path.rpartition('/')[0]} && test -e {path} || echo '#' > {path}"])
    host.ssh(["podman", "network", "create", "other-net"])
    host.ssh(["podman", "volume", "create", "other-volume"])
    host.ssh(["podman", "secret", "create", "other", "-"], input="theirs")
    host.ssh(["podman", "exec", "pages", "sh", "-c", "echo a note > /notes/kept"])
    host.ssh(["podman", "exec", "queue", "redis-cli", "set", "kept", "job"])
    host.ssh(["podman", "exec", "queue", "redis-cli", "save"])
    host.ssh(["sync"])
    return host


def test_the_host_is_as_before_and_the_data_serves_again(shared: Host, before: dict[str, set[str]]) -> None:
    deployed = listing(shared)
    owner = shared.ssh(["stat", "-c", "%u:%g %a", NOTE]).stdout

    for wrong in (
        [],
        ["-e", "confirm=another"],
        ["-e", f"confirm={NAME}", "-e", "memoryark_delete_data=yes"],
    ):
        run = uninstall(*wrong)
        assert run.code != 0
        assert f"-e confirm={NAME}" in said(run) or f"has to be '{NAME}'" in said(run), run.output
    look = uninstall("--check", "--diff")
    assert (look.code, look.changed) == (0, 1), look.output
    for line in (
        "-units: memoryark-pages",
        "-networks: test-back-net",
        "-directories: /etc/memoryark",
        VOLUME,
    ):
        assert line in said(look), look.output
    assert not difference(listing(shared), deployed)
    assert greeting(shared) == OLD

    run = uninstall("-e", f"confirm={NAME}")
    assert (run.code, run.changed) == (0, 1), run.output
    for data in (f"{ROOT}/notes", f"volume {VOLUME}"):
        assert f"data, kept: {data}" in said(run), run.output
    assert not difference(listing(shared), expected(before, volumes={VOLUME}))
    assert below_root(shared) == {"backups", "data", "logs", "notes", "uploads", "version"}
    assert (
        json.loads(shared.ssh(["tail", "-n", "1", "/var/log/memoryark/releases.log"]).stdout)["action"]
        == "uninstall"
    )
    again = uninstall("-e", f"confirm={NAME}")
    assert (again.code, again.changed) == (0, 0), again.output

    hosts.reboot(NAME)
    assert not difference(listing(shared), expected(before, volumes={VOLUME}))

    deployment.deploy_or_fail(NAME, playbook="lab/stages/podman.yml")
    run = deploy()
    assert run.code == 0, run.output
    assert greeting(shared) == OLD
    assert serves(shared)
    assert shared.ssh(["podman", "exec", "pages", "cat", "/notes/kept"]).stdout == "a note\n"
    assert shared.ssh(["podman", "exec", "queue", "redis-cli", "get", "kept"]).stdout == "job\n"
    assert shared.ssh(["stat", "-c", "%u:%g %a", NOTE]).stdout == owner
    same = deploy()
    assert (same.code, same.changed) == (0, 0), same.output


def test_data_goes_when_that_is_confirmed(shared: Host, before: dict[str, set[str]]) -> None:
    run = uninstall("-e", f"confirm={NAME}", "-e", f"memoryark_delete_data={NAME}")
    assert run.code == 0, run.output
    assert not difference(listing(shared), expected(before))
    assert shared.ssh(["test", "-e", ROOT], check=False).returncode != 0


def test_the_power_goes_in_the_middle(shared: Host, before: dict[str, set[str]]) -> None:
    running = start(*options("-e", f"confirm={NAME}"), playbook=UNINSTALL)
    link = ["test", "-e", "/etc/containers/systemd/memoryark"]
    wait_until("the links are gone", lambda: shared.ssh(link, check=False).returncode != 0)
    cut_power(running)
    run = uninstall("-e", f"confirm={NAME}")
    assert run.code == 0, run.output
    assert not difference(listing(shared), expected(before, volumes={VOLUME}))
    assert greeting(shared) == ""


def test_a_container_of_somebody_else_on_a_network_is_noticed_first(shared: Host) -> None:
    image = shared.ssh(["podman", "inspect", "--format", "{{.Image}}", "queue"]).stdout.strip()
    shared.ssh(["podman", "create", "--name=guest", "--network=test-back-net", image])
    run = uninstall("-e", f"confirm={NAME}")
    assert run.code != 0
    assert "containers that are not ours are on network test-back-net: guest" in said(run), run.output
    assert greeting(shared) == OLD
    shared.ssh(["podman", "rm", "guest"])
    assert uninstall("-e", f"confirm={NAME}").code == 0
