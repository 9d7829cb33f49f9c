"""Containers reach what their networks let them reach, and a network that is declared anew is made anew."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from memoryark_lab import deployment, network
from testinfra.host import Host

CONVERGE = "molecule/networks/converge.yml"
ANSWERED, REFUSED, NO_ROUTE = 0, 1, 124
NETWORKS = {
    "one": "test-open-net",
    "two": "test-open-net",
    "other": "test-other-net",
    "shut": "test-closed-net",
}


@pytest.fixture(scope="module")
def containers(host: Host, image: str) -> Iterator[dict[str, str]]:
    """A server of Redis on each network, two on the first: address by name."""
    for name, net in NETWORKS.items():
        run = f"podman run --detach --rm --name {name} --network {net} {image}"
        host.check_output(f"{run} --protected-mode no")
    for name in NETWORKS:
        host.check_output(f"timeout 120 sh -c 'until podman exec {name} redis-cli ping; do sleep 1; done'")
    found = host.check_output(f"podman inspect {' '.join(NETWORKS)}")
    yield {
        entry["Name"]: entry["NetworkSettings"]["Networks"][NETWORKS[entry["Name"]]]["IPAddress"]
        for entry in json.loads(found)
    }
    host.check_output(f"podman kill {' '.join(NETWORKS)}")


def inspected(host: Host, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(host.check_output(f"podman network inspect {name}"))[0]
    return found


def test_an_open_network_is_isolated_from_the_others(host: Host) -> None:
    network = inspected(host, "test-open-net")
    assert network["internal"] is False
    assert network["ipv6_enabled"] is True
    assert network["network_interface"] == "test-open"
    assert network["options"] == {"isolate": "strict"}


def test_a_closed_network_has_no_way_out(host: Host) -> None:
    network = inspected(host, "test-closed-net")
    assert network["internal"] is True
    assert network["subnets"] == [{"subnet": "10.99.3.0/24", "gateway": "10.99.3.1"}]


def connect(host: Host, name: str, address: str, port: int = 6379) -> int:
    """Exit code of a connection from inside the container ``name``."""
    return int(host.run(f"podman exec {name} timeout 5 bash -c '</dev/tcp/{address}/{port}'").rc)


def test_neighbours_on_a_network_reach_each_other(host: Host, containers: dict[str, str]) -> None:
    assert connect(host, "one", containers["two"]) == ANSWERED


def test_neighbours_know_each_other_by_name(host: Host, containers: dict[str, str]) -> None:
    found = host.check_output("podman exec one getent ahosts two").split()
    assert containers["two"] in found
    assert any(address.startswith("fd4d:656d:6f72:99:") for address in found)


@pytest.mark.parametrize(
    ("source", "target"), [("one", "other"), ("other", "one"), ("one", "shut"), ("shut", "one")]
)
def test_networks_are_strangers_to_each_other(
    host: Host, containers: dict[str, str], source: str, target: str
) -> None:
    assert connect(host, source, containers[target]) in {REFUSED, NO_ROUTE}


def test_an_open_network_leads_outside_and_a_closed_one_does_not(
    host: Host, containers: dict[str, str]
) -> None:
    outside = network.LINE_PLATFORM, 443
    assert connect(host, "one", *outside) == ANSWERED
    assert connect(host, "shut", *outside) in {REFUSED, NO_ROUTE}


def test_a_network_in_foreign_use_is_left_alone(host: Host, containers: dict[str, str]) -> None:
    run = deployment.deploy("molecule", "--extra-vars", "other_subnet=10.99.5.0/24", playbook=CONVERGE)
    assert run.code != 0
    assert "containers that are not ours are on it: other" in " ".join(run.output.split())
    assert connect(host, "other", "127.0.0.1") == ANSWERED
