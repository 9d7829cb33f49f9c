# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The host's firewall: one nftables table of this project, beside those of Podman and of others.

Its rules come from the inventory and are the same for every release. What a release opens are elements of
sets in it: a release changes them without a rule being loaded anew, and takes them back when it fails.
Nothing outside the table is ever touched.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils.databases import CURRENT
from ansible_collections.memoryark.ops.plugins.module_utils.guard import Guard
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host

Openings = dict[str, list[str]]
"""Elements by set, each as nft writes it, such as ``ark-egress . tcp . 443``."""

TABLE = "inet memoryark"
# In each release: the elements that it opens.
FILE = "openings.nft"
# The sets that a release fills, with the types of what their elements are made of.
SETS = {
    # Networks of the release: from which bridge to which, which is the same; traffic within one network.
    "inside": ("ifname", "ifname"),
    "bridges": ("ifname",),
    # Networks with a container that publishes ports, and the ports of the host.
    "public": ("ifname",),
    "published_tcp": ("inet_service",),
    "published_udp": ("inet_service",),
    # Where containers may connect to outside of the host.
    "egress": ("ifname", "inet_proto", "inet_service"),
    # Where Podman's name server listens for the containers of a network.
    "resolvers_ipv4": ("ifname", "ipv4_addr"),
    "resolvers_ipv6": ("ifname", "ipv6_addr"),
}
COUNTERS = {
    "input_dropped": "packets to the host that nothing allows",
    "forward_dropped": "packets to or from containers that nothing allows",
    "ssh_limited": "SSH connections beyond the limit for one address",
    "spoofed_dropped": "packets from outside to a loopback address",
    "invalid_dropped": "packets that belong to no connection and begin none",
}
# What the role firewall runs: the rules at boot, Podman's own after somebody flushed them, and counting.
UNITS = ("memoryark-firewall.service", "memoryark-netavark.service", "memoryark-firewall-metrics.service")
TIMER = "memoryark-firewall-metrics.timer"
# It keeps Debian's own service from flushing the rules of everybody.
DROP_IN = "/etc/systemd/system/nftables.service.d/memoryark.conf"
# Without this project there is no such table.
GUARD = Guard(
    name="firewall",
    suffix=".nft",
    check=("nft", "--check", "--file"),
    load=("nft", "--file"),
    initial=f"table {TABLE}\ndelete table {TABLE}\n",
)
# New SSH connections that one address, or one IPv6 network of a subscriber, may make.
SSH_LIMIT = "rate over 12/minute burst 30 packets"
LOG_LIMIT = "limit rate 6/minute burst 10 packets"


@dataclass(frozen=True)
class Opening:
    """A port of the host itself; from everywhere without ``sources``, which are addresses or networks."""

    port: int
    protocol: str = "tcp"
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """What an inventory says about access to the host itself.

    With ``ssh_sources`` SSH is for these addresses and networks alone, and has no limit.
    """

    ssh_ports: tuple[int, ...] = (22,)
    ssh_sources: tuple[str, ...] = ()
    openings: tuple[Opening, ...] = ()


def render(rules: Rules) -> str:
    """Return the file that replaces the whole table in one step, with what the present release opens.

    Input and forward drop what no rule accepts, for IPv4 and IPv6 alike. A packet to a published port is
    forwarded, not input: Podman has put the container's address into it by then, so it is judged by the port
    that it came to. Drop is final in nftables, accept is not: Podman's own table judges as well.
    """
    return "\n".join(
        [
            # It must exist to be deleted.
            f"table {TABLE}",
            f"delete table {TABLE}",
            f"table {TABLE} {{",
            *(f'\tcounter {name} {{ comment "{what}" }}' for name, what in COUNTERS.items()),
            *(f"\tset {name} {{ type {' . '.join(types)}; }}" for name, types in SETS.items()),
            # When they are full, what is new passes: those inside must not be locked out by those outside.
            "\tset ssh_ipv4 { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 10m; }",
            "\tset ssh_ipv6 { type ipv6_addr; size 65535; flags dynamic,timeout; timeout 10m; }",
            *_chain("prerouting", "type filter hook prerouting priority raw; policy accept;", _PREROUTING),
            *_chain("input", "type filter hook input priority filter; policy drop;", _input(rules)),
            *_chain("containers", "", _CONTAINERS),
            *_chain("forward", "type filter hook forward priority filter; policy drop;", _FORWARD),
            "}",
            # A pattern may match nothing, which a name must not: before the first release there is none.
            f'include "{CURRENT}/{FILE[:-1]}[{FILE[-1]}]"',
            "",
        ]
    )


def _chain(name: str, hook: str, lines: Iterable[str]) -> list[str]:
    return [f"\tchain {name} {{", *(f"\t\t{line}" for line in [hook, *lines] if line), "\t}"]


_BEGIN = ["ct state established,related accept", "ct state invalid counter name invalid_dropped drop"]
# Podman routes loopback addresses, for ports that are published on one; nobody outside has business there.
_PREROUTING = ['iifname != "lo" ip daddr 127.0.0.0/8 counter name spoofed_dropped drop']
_FORWARD = [
    *_BEGIN,
    "iifname . oifname @inside accept",
    *(
        f"iifname != @bridges oifname @public ct status dnat meta l4proto {protocol} "
        f"ct original proto-dst @published_{protocol} accept"
        for protocol in ("tcp", "udp")
    ),
    "oifname != @bridges iifname . meta l4proto . th dport @egress accept",
    f'{LOG_LIMIT} log prefix "memoryark forward dropped: "',
    "counter name forward_dropped",
]
_CONTAINERS = [
    *(
        f"iifname . {family} daddr @resolvers_{version} meta l4proto {{ tcp, udp }} th dport 53 accept"
        for family, version in (("ip", "ipv4"), ("ip6", "ipv6"))
    ),
    # Without these no IPv6 address of a neighbour is ever found.
    "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept",
    f'{LOG_LIMIT} log prefix "memoryark container dropped: "',
    "counter name input_dropped drop",
]


def _input(rules: Rules) -> list[str]:
    return [
        'iifname "lo" accept',
        *_BEGIN,
        "iifname @bridges goto containers",
        # RFC 4890, section 4.4: without these IPv6 does not work.
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, nd-router-solicit, "
        "nd-redirect } ip6 hoplimit 255 accept",
        "icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report } "
        "ip6 saddr fe80::/10 accept",
        "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } accept",
        "icmp type { destination-unreachable, time-exceeded, parameter-problem } accept",
        "icmp type echo-request limit rate 20/second accept",
        "icmpv6 type echo-request limit rate 20/second accept",
        # Answers to a broadcast belong to no connection that the kernel knows of.
        "udp sport 67 udp dport 68 accept",
        "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept",
        *_ssh(rules),
        *(
            line
            for opening in rules.openings
            for line in _accept(opening.protocol, [opening.port], opening.sources)
        ),
        # What is sent to everybody is of no interest.
        f'meta pkttype host {LOG_LIMIT} log prefix "memoryark input dropped: "',
        "counter name input_dropped",
    ]


def _ssh(rules: Rules) -> list[str]:
    if rules.ssh_sources:
        return _accept("tcp", rules.ssh_ports, rules.ssh_sources)
    to_ssh = f"tcp dport {_braces(rules.ssh_ports)} ct state new"
    return [
        f"{to_ssh} add @ssh_ipv4 {{ ip saddr limit {SSH_LIMIT} }} counter name ssh_limited drop",
        # One subscriber has all addresses of a /64.
        f"{to_ssh} add @ssh_ipv6 {{ ip6 saddr & ffff:ffff:ffff:ffff:: limit {SSH_LIMIT} }} "
        "counter name ssh_limited drop",
        *_accept("tcp", rules.ssh_ports, ()),
    ]


def _accept(protocol: str, ports: Sequence[int], sources: Iterable[str]) -> list[str]:
    """Return the rules that accept packets to ports of the host, from everywhere without ``sources``."""
    to_ports = f"{protocol} dport {_braces(ports)} accept"
    networks = [ipaddress.ip_network(source) for source in sources]
    if not networks:
        return [to_ports]
    return [
        f"{family} saddr {_braces(ipaddress.collapse_addresses(members))} {to_ports}"
        for family, version in (("ip", 4), ("ip6", 6))
        if (members := [network for network in networks if network.version == version])
    ]


def _braces(values: Iterable[Any]) -> str:
    return f"{{ {', '.join(map(str, values))} }}"


# --- What a release opens


def elements(openings: Mapping[str, Sequence[str]], *, replace: bool = True) -> str:
    """Return the commands that put elements into the sets, instead of what is there or beside it."""
    lines = [f"flush set {TABLE} {name}" for name in SETS if replace]
    lines += [
        f"add element {TABLE} {name} {_braces(_quoted(element, types) for element in found)}"
        for name, types in SETS.items()
        if (found := openings.get(name, ()))
    ]
    return "".join(f"{line}\n" for line in lines)


def _quoted(element: str, types: Sequence[str]) -> str:
    """Put the names of interfaces in quotes: some would be words of nft's own."""
    parts = zip(element.split(" . "), types, strict=True)
    return " . ".join(f'"{part}"' if kind == "ifname" else part for part, kind in parts)


def listing(host: Host) -> str | None:
    """Return the table as ``nft --json`` lists it, None on a host without it."""
    if not host.has("nft"):
        return None
    tables = json.loads(host.run(["nft", "--json", "list", "tables"]))["nftables"]
    names = {f"{found['table']['family']} {found['table']['name']}" for found in tables if "table" in found}
    return host.run(["nft", "--json", "list", "table", *TABLE.split()]) if TABLE in names else None


def live(host: Host) -> Openings | None:
    """Return what is open now, None on a host without the table."""
    present = listing(host)
    return None if present is None else parse(present)


def is_live(host: Host, text: str) -> bool:
    """Whether the table has the rules of a file of ``render``, whatever is in its sets.

    What nft makes of the file it shows in a network namespace that ends with the command.
    """
    present = listing(host)
    if present is None:
        return False
    commands = f"nft --file - && exec nft --json list table {TABLE}"
    return fixed(present) == fixed(host.run(["unshare", "--net", "sh", "-c", commands], data=text))


def fixed(table: str) -> list[Any]:
    """Return a table, as ``nft --json`` lists it, without what changes while it works."""
    moving = {"handle", "elem", "packets", "bytes"}
    return [
        {kind: {key: value for key, value in one.items() if key not in moving}}
        for found in json.loads(table)["nftables"]
        for kind, one in found.items()
        if kind != "metainfo"
    ]


def parse(table: str) -> Openings:
    """Return the elements of the sets that a release fills, from ``nft --json list table``."""
    sets = [found["set"] for found in json.loads(table)["nftables"] if "set" in found]
    return {
        found["name"]: sorted(
            " . ".join(map(str, element["concat"] if isinstance(element, dict) else [element]))
            for element in found.get("elem", ())
        )
        for found in sets
        if found["name"] in SETS
    }


def missing(openings: Mapping[str, Iterable[str]], present: Mapping[str, Iterable[str]]) -> list[str]:
    """Return what is in ``openings`` and not ``present``, each as ``SET ELEMENT``."""
    return [
        f"{name} {element}"
        for name in SETS
        for element in sorted(set(openings.get(name, ())) - set(present.get(name, ())))
    ]


def load(host: Host, text: str) -> None:
    """Carry out the commands of a file, all or none; raises HostError."""
    host.run(["nft", "--file", "-"], data=text)
