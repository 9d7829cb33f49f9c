"""Real hosts, in a lab of their own: run it by its path, it takes some minutes where QEMU emulates.

The tests build on each other, since every boot is dear.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LAB = Path(sys.executable).with_name("lab")

KNOCK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as link:
    print(link.recv(4).decode())
"""


@dataclass(frozen=True)
class Lab:
    """The command line of a lab whose state is ``state``."""

    state: Path

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "MEMORYARK_LAB_STATE": str(self.state)}
        done = subprocess.run(
            [str(LAB), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert not check or done.returncode == 0, f"lab {arguments}: {done.stdout}{done.stderr}"
        return done

    def ssh(self, name: str, command: str) -> str:
        return self("ssh", name, "--", command).stdout.strip()

    def status(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self("status", "--json").stdout)
        return next(host for host in found if host["name"] == name)

    def boot_id(self, name: str) -> str:
        return self.ssh(name, "cat /proc/sys/kernel/random/boot_id")

    def processes(self) -> dict[int, str]:
        """All processes that have anything of this lab in their arguments."""
        socket_directory = str((self.state / "run").readlink()) if (self.state / "run").is_symlink() else None
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.state) in line or (socket_directory and socket_directory in line):
                found[int(path.parent.name)] = line
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    # Longer than the path of a socket may be, as a checkout's path can be.
    state = tmp_path_factory.mktemp("lab") / ("deep" * 25)
    lab = Lab(state)
    try:
        lab("up", "alpha", "--memory", "768")
        yield lab
    finally:
        lab("down", "--all")


def test_it_is_a_fresh_debian_server(lab: Lab) -> None:
    assert lab.ssh("alpha", "hostname; systemctl is-system-running; stat -fc %T /sys/fs/cgroup").split() == [
        "alpha",
        "running",
        "cgroup2fs",
    ]
    assert lab.ssh("alpha", ". /etc/os-release; echo $VERSION_ID") == "13"
    assert lab("ssh", "alpha", "--", "command -v podman nft", check=False).returncode != 0


@pytest.mark.parametrize(
    "wanted",
    [
        "--no-install-recommends podman netavark aardvark-dns crun nftables catatonit",
        "--install-recommends podman",
        "--no-install-recommends systemd-timesyncd tzdata",
    ],
)
def test_the_packages_of_the_roles_lie_ready(lab: Lab, wanted: str) -> None:
    assert lab.ssh("alpha", f"apt-get -qq install -y --print-uris {wanted}") == ""


def test_a_running_host_is_left_alone(lab: Lab) -> None:
    before = lab.boot_id("alpha")
    assert "already running" in lab("up", "alpha").stderr
    assert lab.boot_id("alpha") == before


def test_every_port_is_reached_from_outside_by_both_protocols(lab: Lab) -> None:
    lab.ssh(
        "alpha", "systemd-run --quiet --unit=echo --service-type=exec python3 -m http.server --bind :: 8080"
    )
    host = lab.status("alpha")
    for address in (host["address"], host["address6"]):
        assert lab("outside", "--", sys.executable, "-c", KNOCK, address, "22").stdout == "SSH-\n"
        url = f"http://[{address}]:8080/" if ":" in address else f"http://{address}:8080/"
        fetch = ["curl", "--silent", "--fail", "--retry", "20", "--retry-connrefused", "--retry-delay", "1"]
        assert "Directory listing" in lab("outside", "--", *fetch, url).stdout


def test_the_outside_world_is_an_ordinary_process(lab: Lab) -> None:
    assert lab("outside", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    assert lab("outside", "--", str(LAB), "ssh", "alpha", "--", "hostname").stdout == "alpha\n"
    refused = lab("outside", "--", str(LAB), "up", "gamma", check=False)
    assert refused.returncode == 1
    assert "lab outside" in refused.stderr
    lab("down", "gamma")


def test_a_snapshot_brings_back_files_and_memory(lab: Lab) -> None:
    lab.ssh("alpha", "echo before > /root/state")
    booted = lab.boot_id("alpha")
    lab("snapshot", "alpha", "clean")
    assert lab("has-snapshot", "alpha", "clean").returncode == 0
    assert lab("has-snapshot", "alpha", "other", check=False).returncode == 1
    lab.ssh("alpha", "echo after > /root/state; systemctl stop echo")
    lab("restore", "alpha", "clean")
    assert lab.ssh("alpha", "cat /root/state; systemctl is-active echo").split() == ["before", "active"]
    assert lab.boot_id("alpha") == booted
    assert abs(float(lab.ssh("alpha", "date +%s.%N")) - time.time()) < 10


def test_a_snapshot_starts_a_host_that_is_off(lab: Lab) -> None:
    booted = lab.boot_id("alpha")
    os.kill(pid_of(lab, "alpha"), signal.SIGKILL)
    assert lab.status("alpha")["state"] == "stopped"
    lab("restore", "alpha", "clean")
    assert lab.boot_id("alpha") == booted


def pid_of(lab: Lab, name: str) -> int:
    return int((lab.state / "hosts" / name / "qemu.pid").read_text())


def test_the_plug_pulled_leaves_what_was_synced(lab: Lab) -> None:
    before = lab.boot_id("alpha")
    lab.ssh("alpha", "echo synced > /root/durable; sync /root/durable /root")
    lab("cut-power", "alpha")
    assert lab.boot_id("alpha") != before
    assert lab.ssh("alpha", "cat /root/durable") == "synced"


def test_a_second_host_sees_the_first(lab: Lab) -> None:
    lab("up", "beta", "--memory", "512", "--cpus", "1", "--disk", "14")
    alpha, beta = lab.status("alpha"), lab.status("beta")
    assert alpha["address"] != beta["address"]
    for address in (alpha["address"], alpha["address6"]):
        lab.ssh("beta", f"ping -c 1 -w 20 {address}")
    assert int(lab.ssh("beta", "df --output=size --block-size=G / | tail -1").rstrip("G")) >= 13
    lab("down", "beta")
    assert "beta" not in lab("status").stdout


def test_a_reboot_is_waited_for(lab: Lab) -> None:
    before = lab.boot_id("alpha")
    lab("reboot", "alpha")
    assert lab.boot_id("alpha") != before


def test_a_crash_of_the_lab_is_cleared_away_by_the_next_run(lab: Lab) -> None:
    lab.ssh("alpha", "sync")
    holder = next(pid for pid, line in lab.processes().items() if "memoryark_lab.inside" in line)
    os.kill(holder, signal.SIGKILL)
    assert lab.status("alpha")["state"] == "detached"
    os.kill(pid_of(lab, "alpha"), signal.SIGKILL)
    assert lab.status("alpha")["state"] == "stopped"
    lab("up", "alpha")
    host = lab.status("alpha")
    assert host["state"] == "running"
    assert lab("outside", "--", sys.executable, "-c", KNOCK, host["address"], "22").stdout == "SSH-\n"


def test_nothing_is_left_at_the_end(lab: Lab) -> None:
    assert lab.processes()
    visitor = subprocess.Popen(
        [str(LAB), "outside", "--", "sleep", "600"],
        env={**os.environ, "MEMORYARK_LAB_STATE": str(lab.state)},
    )
    deadline = time.monotonic() + 20
    while Path(f"/proc/{visitor.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    sockets = (lab.state / "run").readlink()
    lab("down", "--all")
    assert visitor.wait(20) != 0
    assert lab.processes() == {}
    assert not sockets.exists()
    assert lab("status").stdout.startswith("no hosts")
