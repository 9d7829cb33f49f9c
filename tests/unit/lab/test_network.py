"""The lab's addresses and the commands that make and enter its namespace."""

from pathlib import Path

import pytest
from memoryark_lab import inside, network


@pytest.mark.parametrize(
    ("number", "address", "address6"),
    [(0, "192.0.2.10", "2001:db8:6d61::10"), (7, "192.0.2.17", "2001:db8:6d61::17")],
)
def test_both_addresses_of_a_host_end_alike(number: int, address: str, address6: str) -> None:
    assert (network.address(number), network.address6(number)) == (address, address6)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("Name:\tx\nCapEff:\t000001ffffffffff\n", True),
        ("CapEff:\t0000000000000000\n", False),
        ("CapEff:\t0000000000200000\n", False),  # sys_admin alone
        ("CapEff:\t0000000000001000\n", False),  # net_admin alone
        ("CapEff:\t0000000000201000\n", True),
        ("", False),
    ],
)
def test_rights_decide_whether_a_user_namespace_is_needed(status: str, expected: bool) -> None:
    assert network.may_unshare_directly(status) is expected


@pytest.mark.parametrize("direct", [True, False])
def test_the_holder_is_found_again_by_its_mark(direct: bool) -> None:
    argv = network.unshare_argv(direct, Path("/state/network"))
    assert ("--user" in argv) is not direct
    assert argv[argv.index("hold") + 1] == "/state/network"
    assert argv[-4:] == ["192.0.2.1/24", "192.0.2.2/24", "2001:db8:6d61::1/64", "2001:db8:6d61::2/64"]


def test_entering_keeps_the_command_as_it_is() -> None:
    assert network.enter_argv(7, False, ["curl", "a b"])[-3:] == ["--", "curl", "a b"]
    assert "--user" in network.enter_argv(7, True, ["true"])


def test_addresses_are_usable_at_once() -> None:
    commands = inside.bridge_commands(["192.0.2.1/24", "2001:db8::1/64"])
    assert "addr add 192.0.2.1/24 dev lab0\n" in commands
    assert "addr add 2001:db8::1/64 dev lab0 nodad\n" in commands


def test_the_request_for_a_tap_fills_the_kernel_structure() -> None:
    request = inside.tap_request("tap0")
    assert len(request) == 40
    assert request.startswith(b"tap0\0")
