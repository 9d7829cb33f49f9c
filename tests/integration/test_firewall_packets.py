"""What the firewall lets through, with real packets: a server in network namespaces, as Podman arranges it.

The rules are those for the project's own catalogue. Podman's part, which sends what comes to published ports on
to the containers, is played by a table of the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ansible_collections.memoryark.ops.plugins.module_utils import nftables
from ansible_collections.memoryark.ops.plugins.module_utils.nftables import Opening, Rules
from ansible_collections.memoryark.ops.plugins.plugin_utils.openings import openings
from memoryark_lab.paths import REPO
from memoryark_lab.reference_pages import catalogue

from tests.integration.probing import Place

PROBING = Path(__file__).with_name("probing.py")
# Namespace, its card, the bridge of the host that the card is plugged into, and the addresses.
PLACES = {
    "outside": ("out0", "", ["192.0.2.1/24", "192.0.2.99/24", "2001:db8:1::1/64"]),
    "nginx": ("web0", "ark-frontend", ["10.89.1.2/24", "fd4d:656d:6f72:1::2/64"]),
    "pages": ("pag0", "ark-frontend", ["10.89.1.3/24", "fd4d:656d:6f72:1::3/64"]),
    "redis": ("red0", "ark-backend", ["10.89.2.2/24"]),
    "prometheus": ("pro0", "ark-monitoring", ["10.89.3.2/24"]),
    "bot": ("bot0", "ark-egress", ["10.89.4.2/24"]),
    # Somebody's own container, on Podman's default network.
    "guest": ("gue0", "podman0", ["10.88.0.2/16"]),
}
BRIDGES = {
    "ark-frontend": ["10.89.1.1/24", "fd4d:656d:6f72:1::1/64"],
    "ark-backend": ["10.89.2.1/24"],
    "ark-monitoring": ["10.89.3.1/24"],
    "ark-egress": ["10.89.4.1/24"],
    "podman0": ["10.88.0.1/16"],
}
HOST, HOST6 = "192.0.2.10", "2001:db8:1::10"
# What Podman does for published ports: 80 and 443 are nginx's; 8888 and 8889 were published by hand.
PUBLISHED = """
table inet podman {
    chain prerouting {
        type nat hook prerouting priority -100;
        fib daddr type local meta nfproto ipv4 tcp dport 80 dnat ip to 10.89.1.2:8080
        fib daddr type local meta nfproto ipv4 tcp dport 443 dnat ip to 10.89.1.2:8443
        fib daddr type local meta nfproto ipv6 tcp dport 80 dnat ip6 to [fd4d:656d:6f72:1::2]:8080
        fib daddr type local meta nfproto ipv6 tcp dport 443 dnat ip6 to [fd4d:656d:6f72:1::2]:8443
        fib daddr type local meta nfproto ipv4 tcp dport 8888 dnat ip to 10.89.1.3:8080
        fib daddr type local meta nfproto ipv4 tcp dport 8889 dnat ip to 10.88.0.2:8080
        fib daddr type local meta nfproto ipv6 tcp dport 8888 dnat ip6 to [fd4d:656d:6f72:1::3]:8080
    }
    chain postrouting {
        type nat hook postrouting priority 100;
        ip saddr 10.88.0.0/15 oifname "host0" masquerade
    }
}
"""
ANY = "0.0.0.0"  # noqa: S104 - in a namespace of the test
WEB: list[Place] = [("tcp", ANY, 8080), ("tcp", ANY, 8443)]
SERVERS: dict[str, list[Place]] = {
    "host": [
        *(("tcp", address, port) for address in (ANY, "::1") for port in (22, 9100, 5432)),
        *(("tcp", HOST6, port) for port in (22, 9100, 5432)),
        *(
            (protocol, address.partition("/")[0], 53)
            for addresses in BRIDGES.values()
            for address in addresses
            for protocol in ("tcp", "udp")
        ),
        ("udp", HOST, 161),
        ("udp", HOST6, 161),
    ],
    "nginx": [*WEB, ("tcp", "fd4d:656d:6f72:1::2", 8080), ("tcp", "fd4d:656d:6f72:1::2", 8443)],
    "pages": [*WEB, ("tcp", "fd4d:656d:6f72:1::3", 8080)],
    "redis": [("tcp", ANY, 6379)],
    "prometheus": [("tcp", ANY, 9090)],
    "bot": [("tcp", ANY, 3000)],
    "guest": WEB,
    "outside": [
        *(("tcp", address, port) for address in (ANY, "2001:db8:1::1") for port in (443, 25)),
        ("udp", ANY, 53),
        ("udp", ANY, 443),
    ],
}


@dataclass(frozen=True)
class World:
    """The namespaces, in one that keeps them: ``enter`` is the command that goes there."""

    enter: tuple[str, ...]

    def inside(self, place: str, argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` in the namespace of a place."""
        return [*self.enter, "nsenter", f"--net=/run/netns/{place}", *argv]

    def run(self, place: str, *argv: str, data: str = "") -> str:
        """What a command prints."""
        command = self.inside(place, argv) if place else [*self.enter, *argv]
        done = subprocess.run(command, input=data, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{argv} failed: {done.stderr}"
        return done.stdout

    def load(self, rules: Rules) -> None:
        """Give the host a firewall with these rules that opens what the catalogue says."""
        text = nftables.render(rules) + nftables.elements(openings(catalogue(REPO / "stack")))
        self.run("host", "nft", "--file", "-", data=text)

    def reaches(self, place: str, *targets: Place) -> list[bool]:
        """Which of the targets answer somebody at a place."""
        command = [sys.executable, str(PROBING), "ask", json.dumps(targets)]
        answers: list[bool] = json.loads(self.run(place, *command))
        return answers

    def count(self, counter: str) -> int:
        """How many packets a counter of the firewall has counted."""
        listing = json.loads(
            self.run("host", "nft", "--json", "list", "counter", *nftables.TABLE.split(), counter)
        )
        return int(listing["nftables"][1]["counter"]["packets"])


@contextmanager
def ended(command: Sequence[str], ready: str) -> Iterator[int]:
    """A program that says when it is ready, and is ended afterwards; yields its process id."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == ready
        try:
            yield process.pid
        finally:
            process.kill()


def plumbing() -> str:
    """Commands of ip(8) and sysctl(8) that make the namespaces and plug them together."""
    host = "ip -n host"
    lines = ["mount -t tmpfs tmpfs /run", "ip netns add host", f"{host} link set lo up"]
    for bridge, addresses in BRIDGES.items():
        lines.append(f"{host} link add {bridge} type bridge")
        lines += [f"{host} addr add {address} dev {bridge} nodad" for address in addresses if ":" in address]
        lines += [f"{host} addr add {address} dev {bridge}" for address in addresses if ":" not in address]
        lines.append(f"{host} link set {bridge} up")
    for place, (card, bridge, addresses) in PLACES.items():
        peer = f"to-{card}" if bridge else "host0"
        own = f"ip -n {place}"
        lines += [f"ip netns add {place}", f"{own} link set lo up"]
        lines.append(f"{host} link add {peer} type veth peer name {card} netns {place}")
        lines += [f"{own} addr add {one} dev {card}{' nodad' if ':' in one else ''}" for one in addresses]
        lines += [f"{own} link set {card} up", f"{host} link set {peer} up"]
        if bridge:
            lines.append(f"{host} link set {peer} master {bridge}")
            lines += [
                f"{own} route add default via {address.partition('/')[0]}" for address in BRIDGES[bridge]
            ]
        else:
            lines += [f"{host} addr add {HOST}/24 dev {peer}", f"{host} addr add {HOST6}/64 dev {peer} nodad"]
            # Somebody outside who knows what networks are in there.
            lines += [
                f"{own} route add 10.88.0.0/15 via {HOST}",
                f"{own} route add fd4d:656d:6f72::/48 via {HOST6}",
            ]
            # Nothing there is on a loopback address; what is sent to one goes to the host.
            lines += [
                f"{own} route flush table local root 127.0.0.0/8",
                f"{own} route add 127.0.0.0/8 via {HOST}",
            ]
    forward = [
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv4.conf.all.route_localnet=1",
    ]
    lines.append(f"nsenter --net=/run/netns/host sysctl -qw {' '.join(forward)}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with ExitStack() as stack:
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        holder = ["unshare", "--net", "--mount", *user, "sh", "-c", "echo ready; exec cat"]
        pid = stack.enter_context(ended(holder, "ready"))
        own = ["--user", "--preserve-credentials"] if user else []
        made = World(("nsenter", f"--target={pid}", "--net", "--mount", *own, "--"))
        made.run("", "sh", "-e", "-c", plumbing())
        made.run("host", "nft", "--file", "-", data=PUBLISHED)
        for place, wanted in SERVERS.items():
            command = [sys.executable, str(PROBING), "serve", json.dumps(wanted)]
            stack.enter_context(ended(made.inside(place, command), "ready"))
        deadline = time.monotonic() + 20
        # New bridges take a moment until IPv6 neighbours find each other over them.
        while not all(made.reaches("outside", ("tcp", HOST6, 80), ("tcp", HOST6, 8888))):
            assert time.monotonic() < deadline, "the network does not work"
        yield made


RULES = Rules(openings=(Opening(9100, sources=("192.0.2.99", "2001:db8:1::1")),))


@pytest.fixture
def guarded(world: World) -> World:
    """The world with the firewall as a fresh deployment has it."""
    world.load(RULES)
    return world


def everything() -> dict[str, list[Place]]:
    """All that can be asked, by who asks."""
    host = [HOST, HOST6]
    outside: list[Place] = [
        *(("tcp", address, port) for address in host for port in (22, 80, 443, 5432, 8888)),
        ("tcp", HOST, 8889),
        ("tcp", HOST6, 9100),
        ("udp", HOST, 161),
        ("udp", HOST6, 161),
        *(("udp", address, 53) for address in host),
        # Straight to the containers, past the published ports.
        ("tcp", "10.89.1.2", 8080),
        ("tcp", "fd4d:656d:6f72:1::2", 8080),
        ("tcp", "10.89.2.2", 6379),
        ("tcp", "10.89.4.2", 3000),
        ("tcp", "10.88.0.2", 8080),
        # Podman's name servers.
        ("udp", "10.89.1.1", 53),
    ]
    containers = {
        place: [
            *((protocol, gateway, 53) for protocol in ("tcp", "udp")),
            *(("tcp", one, port) for one in (gateway, HOST) for port in (22, 9100, 5432)),
            ("udp", HOST, 161),
            *(("tcp", "192.0.2.1", port) for port in (443, 25)),
            ("udp", "192.0.2.1", 53),
            ("udp", "192.0.2.1", 443),
            *(
                (protocol, address, port)
                for other in ("nginx", "redis", "prometheus", "bot", "guest")
                for protocol, _any, port in SERVERS[other][:1]
                for address in [PLACES[other][2][0].partition("/")[0]]
                if other != place
            ),
        ]
        for place, (_card, bridge, _own) in PLACES.items()
        if bridge
        for gateway in [BRIDGES[bridge][0].partition("/")[0]]
    }
    six: list[Place] = [
        ("udp", "fd4d:656d:6f72:1::1", 53),
        ("tcp", HOST6, 22),
        ("tcp", "2001:db8:1::1", 443),
        ("tcp", "fd4d:656d:6f72:1::2", 8080),
    ]
    containers["pages"] += six
    return {"outside": outside, **containers}


OPEN: dict[str, set[Place]] = {
    "outside": {
        *(("tcp", address, port) for address in (HOST, HOST6) for port in (22, 80, 443)),
        ("tcp", HOST6, 9100),
    },
    "nginx": {("tcp", "10.89.1.1", 53), ("udp", "10.89.1.1", 53)},
    "pages": {
        ("tcp", "10.89.1.1", 53),
        ("udp", "10.89.1.1", 53),
        ("udp", "fd4d:656d:6f72:1::1", 53),
        ("tcp", "10.89.1.2", 8080),
        ("tcp", "fd4d:656d:6f72:1::2", 8080),
    },
    "redis": {("tcp", "10.89.2.1", 53), ("udp", "10.89.2.1", 53)},
    "prometheus": {("tcp", "10.89.3.1", 53), ("udp", "10.89.3.1", 53)},
    # Where LINE is.
    "bot": {("tcp", "10.89.4.1", 53), ("udp", "10.89.4.1", 53), ("tcp", "192.0.2.1", 443)},
    # Like anybody: SSH, and what is published.
    "guest": {("tcp", "10.88.0.1", 22), ("tcp", HOST, 22)},
}


def test_everything_is_reached_without_a_firewall(world: World) -> None:
    """Or the tests below would show nothing."""
    world.run("host", "nft", "--file", "-", data=nftables.GUARD.initial)
    for place, targets in everything().items():
        reached = world.reaches(place, *targets)
        missed = [target for target, answer in zip(targets, reached, strict=True) if not answer]
        # Nobody listens there; it is asked for the name servers on the bridges.
        assert [one for one in missed if one[1:] not in {(HOST, 53), (HOST6, 53)}] == [], place


@pytest.mark.parametrize("place", OPEN)
def test_only_what_is_declared_is_reached(guarded: World, place: str) -> None:
    targets = everything()[place]
    reached = guarded.reaches(place, *targets)
    assert {target for target, answer in zip(targets, reached, strict=True) if answer} == OPEN[place]


def test_the_host_itself_reaches_all(guarded: World) -> None:
    targets: list[Place] = [
        ("tcp", "10.89.2.2", 6379),
        ("tcp", "10.89.1.2", 8080),
        ("tcp", "fd4d:656d:6f72:1::2", 8080),
        ("tcp", "192.0.2.1", 25),
        ("udp", "192.0.2.1", 53),
        ("tcp", "::1", 5432),
    ]
    assert all(guarded.reaches("host", *targets))


def test_ssh_from_declared_sources_only(world: World) -> None:
    targets: list[Place] = [("tcp", HOST, 22), ("tcp", HOST6, 22)]
    for sources, answers in (
        (("192.0.2.0/24",), [True, False]),
        (("198.51.100.7", "2001:db8:1::/48"), [False, True]),
        (("198.51.100.7",), [False, False]),
    ):
        world.load(replace(RULES, ssh_sources=sources))
        assert world.reaches("outside", *targets) == answers, sources


def test_many_attempts_from_one_address_are_dropped_and_counted(guarded: World) -> None:
    for address in (HOST, HOST6):
        before = guarded.count("ssh_limited")
        attempts = guarded.reaches("outside", *([("tcp", address, 22)] * 40))
        assert 25 <= sum(attempts) <= 32
        assert guarded.count("ssh_limited") > before
        # Others come in all the same.
        assert guarded.reaches("outside", ("tcp", address, 443)) == [True]


def test_what_is_dropped_is_counted(guarded: World) -> None:
    for place, target, counter in (
        ("outside", ("tcp", HOST, 5432), "input_dropped"),
        ("outside", ("tcp", HOST, 8888), "forward_dropped"),
        # As a neighbour may try: Podman lets the kernel route loopback addresses.
        ("outside", ("tcp", "127.0.0.1", 22), "spoofed_dropped"),
        ("redis", ("tcp", HOST, 22), "input_dropped"),
        ("bot", ("tcp", "192.0.2.1", 25), "forward_dropped"),
    ):
        before = guarded.count(counter)
        assert guarded.reaches(place, target) == [False]
        assert guarded.count(counter) > before, target


def test_a_ping_is_answered(guarded: World) -> None:
    assert guarded.reaches("outside", ("icmp", HOST, 0), ("icmp", HOST6, 0)) == [True, True]


def test_elements_come_beside_or_instead(guarded: World) -> None:
    """As a release opens what it needs, and at its end closes the rest."""
    wanted = {**openings(catalogue(REPO / "stack")), "published_tcp": ["443", "8888"]}
    ports: list[Place] = [("tcp", HOST, port) for port in (80, 443, 8888)]
    for replaced, answers in ((False, [True, True, True]), (True, [False, True, True])):
        text = nftables.elements(wanted, replace=replaced)
        guarded.run("host", "nft", "--file", "-", data=text)
        assert guarded.reaches("outside", *ports) == answers
    listing = guarded.run("host", "nft", "--json", "list", "table", *nftables.TABLE.split())
    assert {name: found for name, found in nftables.parse(listing).items() if found} == {
        name: found for name, found in wanted.items() if found
    }


def test_podmans_table_and_those_of_others_stay(guarded: World) -> None:
    def tables() -> str:
        return guarded.run("host", "nft", "list", "tables")

    before = tables()
    guarded.load(RULES)
    assert tables() == before
    assert guarded.reaches("outside", ("tcp", HOST, 443)) == [True]
