"""From outside of the host, only what is declared is reached, whatever somebody does on the host."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from memoryark_lab import deployment, hosts, load, network, scan
from memoryark_lab.images import known
from testinfra.host import Host

NAME = "molecule"
CONVERGE = "molecule/firewall/converge.yml"
# On the host: what it serves itself, and a container that somebody published by hand.
UNDECLARED = (22, 5432, 8888)
UDP = (53, 67, 123, 161, 500, 4500, 5353)
# A program of the host that answers at the ports of UDP and at one of TCP, on all addresses.
_LISTENER = f"""
import selectors, socket
selector = selectors.DefaultSelector()
for port in {UDP}:
    one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind(("::", port))
    except OSError:
        continue  # Somebody has it already, which answers as well as this.
    selector.register(one, selectors.EVENT_READ)
listening = socket.create_server(("::", 5432), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    for key, _events in selector.select():
        _data, peer = key.fileobj.recvfrom(100)
        key.fileobj.sendto(b"here", peer)
"""
# Says which of the ports at an address answer a datagram.
_ASK = """
import select, socket, sys
asked = {}
for port in map(int, sys.argv[2:]):
    one = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
    one.connect((sys.argv[1], port))
    one.send(b"?")
    asked[one] = port
print(sorted(asked[one] for one in select.select(list(asked), [], [], 5)[0]))
"""


@pytest.fixture(scope="module")
def image(host: Host) -> str:
    """The image of a server of Redis, on the host."""
    reference = known()["redis"].reference
    host.check_output(f"podman pull --quiet {reference}")
    return reference


def addresses() -> tuple[str, str]:
    found = hosts.get(NAME)
    return found.address, found.address6


def open_ports(*ports: int) -> list[set[int]]:
    """Those of the ports, or of all, that are open over IPv4 and over IPv6."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda address: scan.open_ports(address, ports), addresses()))


@pytest.fixture(scope="module")
def careless(host: Host, image: str) -> Iterator[None]:
    """Somebody opens all kinds of ports on the host, without thinking of its firewall."""
    with ExitStack() as stack:
        host.check_output("systemd-run --unit test-listener python3 -c %s", _LISTENER)
        # A boot in between has ended both.
        stack.callback(host.run, "systemctl stop test-listener")
        run = f"podman run --detach --rm --name careless --network test-web-net --publish 8888:6379 {image}"
        host.check_output(f"{run} --protected-mode no")
        stack.callback(host.run, "podman kill careless")
        # They are there, or the tests would show nothing. A program takes a while to listen.
        for port in UNDECLARED:
            connect = f"timeout 10 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>/dev/null"
            host.check_output("timeout 120 bash -c %s", f"until {connect}; do sleep 1; done")
        yield


@pytest.mark.usefixtures("careless")
def test_of_all_ports_only_the_declared_one_answers() -> None:
    assert open_ports() == [{80}, {80}]


@pytest.mark.usefixtures("careless")
def test_no_datagram_is_answered() -> None:
    for address in addresses():
        command = [sys.executable, "-c", _ASK, address, *map(str, UDP)]
        done = subprocess.run(network.outside(command), capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


COMMANDS = (
    "systemctl start nftables",
    "systemctl reload nftables",
    "systemctl restart nftables",
    "systemctl stop nftables",
    "systemctl reload memoryark-firewall",
    "podman network reload --all",
    # What an upgrade of the package does.
    "dpkg-reconfigure nftables; deb-systemd-invoke restart nftables.service",
)


@pytest.mark.usefixtures("careless")
def test_whatever_is_commanded_the_site_serves_on_and_the_rest_stays_closed(host: Host) -> None:
    address = addresses()[0]
    with load.running(hosts.get(NAME), load.Request("GET", f"http://{address}/"), rate=2.0) as visits:
        for command in COMMANDS:
            host.check_output(command)
            assert open_ports(80, *UNDECLARED) == [{80}, {80}], command
    assert visits.failed == 0, visits.statuses


def test_rules_that_somebody_flushed_come_back_with_the_service(host: Host) -> None:
    host.check_output("nft flush ruleset")
    host.check_output("systemctl restart memoryark-firewall")
    deadline = time.monotonic() + 60
    while open_ports(80) != [{80}, {80}]:
        assert time.monotonic() < deadline
    run = deployment.deploy(NAME, playbook=CONVERGE)
    assert (run.code, run.changed) == (0, 0), run.output


def test_rules_that_lock_the_control_node_out_go_back_by_themselves(host: Host) -> None:
    before = host.check_output("cat /etc/memoryark/firewall/proven.nft")
    begun = time.monotonic()
    run = deployment.deploy(NAME, "--extra-vars", "{ssh_sources: [198.51.100.1]}", playbook=CONVERGE)
    said = " ".join(run.output.split())
    assert run.code != 0
    assert "kept this control node out, so the host has put the old ones back" in said, run.output
    assert host.check_output("cat /etc/memoryark/firewall/proven.nft") == before
    journal = host.check_output(
        "journalctl --no-pager --output=short-unix --unit=memoryark-revert-firewall.service"
    )
    assert journal
    assert time.monotonic() - begun < 180


def connects(host: Host, image: str, where: str, address: str, port: int) -> bool:
    """Whether a container on a network gets a connection."""
    command = f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}'"
    run = f"podman run --rm --network {where} --entrypoint bash {image} -c"
    return bool(host.run(f"{run} %s", command).succeeded)


def test_containers_reach_what_is_declared(host: Host, image: str) -> None:
    outside = network.LINE_PLATFORM
    assert connects(host, image, "test-out-net", outside, 443)
    assert not connects(host, image, "test-web-net", outside, 443)
    assert not connects(host, image, "test-out-net", addresses()[0], 22)
    gateway = "10.99.2.1"
    assert connects(host, image, "test-out-net", gateway, 53)
    assert not connects(host, image, "test-out-net", gateway, 22)


def test_dropped_packets_are_counted_and_logged(host: Host) -> None:
    def count() -> int:
        shown = json.loads(host.check_output("nft --json list counter inet memoryark input_dropped"))
        return int(shown["nftables"][-1]["counter"]["packets"])

    before = count()
    assert open_ports(23) == [set(), set()]
    assert count() > before
    assert "memoryark input dropped: " in host.check_output("journalctl --no-pager --dmesg --grep 'DPT=23'")


def test_what_is_dropped_becomes_metrics(host: Host) -> None:
    file = "/var/lib/memoryark/metrics/firewall.prom"
    assert "memoryark-firewall-metrics.timer" in host.check_output("systemctl list-timers --no-legend")
    host.check_output("systemctl start memoryark-firewall-metrics")
    written = host.file(file).content_string
    assert "memoryark_firewall_loaded 1.0" in written
    assert 'memoryark_firewall_dropped_packets_total{counter="input_dropped"}' in written


def test_a_boot_brings_the_same(host: Host) -> None:
    """The last one: a run after it finds nothing to do, whatever the others did to the host."""
    hosts.reboot(NAME)
    deadline = time.monotonic() + 120
    while open_ports(80, *UNDECLARED) != [{80}, {80}]:
        assert time.monotonic() < deadline
    run = deployment.deploy(NAME, playbook=CONVERGE)
    assert (run.code, run.changed) == (0, 0), run.output
