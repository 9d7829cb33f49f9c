"""The networks are as declared, as the kernel and a foreign change show."""

from __future__ import annotations

import json

from testinfra.host import Host


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
