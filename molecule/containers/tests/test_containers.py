"""Containers run as their Compose files say, confined, in order, and are left alone by a second run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from typing import Any

import pytest
from memoryark_lab import hosts, world
from memoryark_lab.paths import REPO
from testinfra.host import Host

sys.path[:0] = [str(REPO / "collections"), str(REPO / "tests/unit/ops")]
from test_quadlet import CASES, rendered_units  # noqa: E402

NAMES = ["queue", "pages"]


def inspected(host: Host, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.check_output(f"podman inspect {name}"))[0]
    return found


def unit_property(host: Host, unit: str, name: str) -> str:
    value: str = host.check_output(f"systemctl show --value --property={name} {unit}.service")
    return value


@pytest.mark.parametrize("name", NAMES)
def test_it_is_healthy(host: Host, name: str) -> None:
    assert inspected(host, name)["State"]["Health"]["Status"] == "healthy"


def test_a_service_starts_after_what_it_needs_was_healthy(host: Host) -> None:
    healthy = int(unit_property(host, "memoryark-queue", "ActiveEnterTimestampMonotonic"))
    started = int(unit_property(host, "memoryark-pages", "ExecMainStartTimestampMonotonic"))
    assert started >= healthy


@pytest.mark.parametrize("name", NAMES)
def test_the_second_run_started_nothing_again(host: Host, name: str) -> None:
    log = host.check_output(f"journalctl --no-pager --output=cat --unit=memoryark-{name}")
    assert log.count(f"Started memoryark-{name}.service") == 1


@pytest.mark.parametrize("name", NAMES)
def test_limits_hold_in_the_cgroup(host: Host, name: str) -> None:
    group = f"/sys/fs/cgroup{inspected(host, name)['State']['CgroupPath']}"
    assert host.file(f"{group}/memory.max").content_string.strip() == str(128 * 2**20)
    assert host.file(f"{group}/memory.swap.max").content_string.strip() == "0"
    assert host.file(f"{group}/cpu.max").content_string.split() == ["50000", "100000"]
    assert host.file(f"{group}/pids.max").content_string.strip() == "32"


def test_the_restart_policy_is_the_units(host: Host) -> None:
    wanted = {"Restart": "on-failure", "RestartUSec": "2s", "StartLimitBurst": "3", "CPUWeight": "25"}
    assert {name: unit_property(host, "memoryark-pages", name) for name in wanted} == wanted


def test_the_secret_is_where_it_is_needed_and_nowhere_else(host: Host) -> None:
    value = world.facts()["secrets"]["internal_api_token"]
    assert host.check_output("podman exec pages cat /run/secrets/probe_token") == value
    assert host.check_output("podman exec pages stat -c '%u %a' /run/secrets/probe_token") == "33 400"
    assert host.check_output("podman exec pages sh -c 'echo $PROBE_TOKEN'") == value
    for place in ("/etc", "/srv/test", "/run/systemd", "/var/lib/memoryark"):
        assert host.run(f"grep -rlF -- '{value}' {place}").stdout == ""
    units = host.check_output(
        "systemctl cat memoryark-pages.service && systemctl show memoryark-pages.service"
    )
    assert value not in units


def test_odd_characters_arrive_as_they_are(host: Host) -> None:
    assert host.check_output("podman exec pages sh -c 'echo \"$GREETING\"'") == '100% of $5 & "more"'


def test_configuration_is_rendered_and_cannot_be_changed_from_inside(host: Host) -> None:
    text = host.check_output("podman exec pages cat /etc/greeting/greeting.txt")
    assert text == f"pages greets {world.domain('molecule')}"
    assert host.run("podman exec pages sh -c 'echo x > /etc/greeting/greeting.txt'").failed


def test_the_root_is_read_only_and_tmp_is_not(host: Host) -> None:
    assert host.run("podman exec pages touch /etc/x").failed
    assert host.run("podman exec pages touch /tmp/x").succeeded


def test_files_belong_on_disk_to_the_ids_that_the_container_sees(host: Host) -> None:
    host.check_output("podman exec pages touch /notes/from-inside")
    file = host.file("/srv/test/notes/from-inside")
    assert (file.uid, file.gid) == (33, 33)


def test_processes_have_ids_of_their_own_range_and_no_privileges(host: Host) -> None:
    ranges = {"queue": 100_000 + 20 * 65_536 + 999, "pages": 100_000 + 21 * 65_536 + 33}
    for name, uid in ranges.items():
        status = host.file(f"/proc/{inspected(host, name)['State']['Pid']}/status").content_string
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(fields["Uid"].split()[0]) == uid
        assert fields["CapBnd"] == "0" * 16
        assert fields["NoNewPrivs"] == "1"


def test_aliases_resolve_and_an_internal_network_leads_nowhere(host: Host) -> None:
    assert host.check_output("podman exec pages getent hosts queue").split()[0].startswith("10.99.2.")
    probe = "timeout 5 bash -c '</dev/tcp/192.0.2.1/22'"
    refused = host.run(f"podman exec queue {probe}")
    assert refused.rc in {1, 124}
    assert "refused" not in refused.stderr, "the outside answered"


def test_a_killed_container_comes_back(host: Host) -> None:
    before = inspected(host, "queue")["Id"]
    host.check_output("podman kill --signal KILL queue")
    waiting = "for i in $(seq 60); do systemctl is-active -q memoryark-queue && exit; sleep 1; done; exit 1"
    # The unit first has to notice; then it starts a new container after its delay.
    host.check_output(
        f"for i in $(seq 60); do podman container exists {before} || break; sleep 1; done; {waiting}"
    )
    assert inspected(host, "queue")["Id"] != before


def test_the_real_generator_takes_every_key_and_refuses_later_ones(host: Host) -> None:
    """Podman's own generator is the witness for the table of keys."""
    units = {
        f"case{number}.container": rendered_units(change)
        for number, (_key, change, *_rest) in enumerate(CASES)
    }
    assert dryrun(units) == (0, "")
    for key in ("Memory=5", "ReloadCmd=x", "HttpProxy=true"):
        code, said = dryrun({"bad.container": f"[Container]\nImage=x\n{key}\n"})
        assert code != 0
        assert "unsupported key" in said


def dryrun(units: dict[str, str]) -> tuple[int, str]:
    """Exit code and complaints of the generator for units in a directory of their own."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, text in units.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    script = "d=$(mktemp -d) && tar -x -C $d && QUADLET_UNIT_DIRS=$d /usr/libexec/podman/quadlet -dryrun 2>&1 >/dev/null"
    command = hosts.get("molecule").ssh_argv(["sh", "-c", script])
    done = subprocess.run(command, input=archive.getvalue(), capture_output=True, check=False)
    complaints = [line for line in done.stdout.decode().splitlines() if "unsupported key" in line]
    return done.returncode, "\n".join(complaints)
