# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Podman networks as they are declared. Podman cannot change one, only make it anew."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils.host import (
    OWNED_LABEL,
    UNIT_LABEL,
    Host,
    HostError,
)

Settings = dict[str, Any]


def settings(wanted: Mapping[str, Any]) -> Settings:
    """Return what a declared network has to look like."""
    return {
        "driver": "bridge",
        "interface": wanted["interface"],
        "internal": wanted["internal"],
        "ipv6": wanted["ipv6"],
        "isolate": "" if wanted["internal"] else "strict",
        "subnets": sorted(wanted["subnets"]),
        "leased": leased(wanted.get("ip_range") or ""),
    }


def actual(inspected: Mapping[str, Any]) -> Settings:
    """Return the same settings of a network as ``podman network inspect`` shows it."""
    return {
        "driver": inspected["driver"],
        "interface": inspected["network_interface"],
        "internal": inspected["internal"],
        "ipv6": inspected["ipv6_enabled"],
        "isolate": inspected.get("options", {}).get("isolate", ""),
        "subnets": sorted(entry["subnet"] for entry in inspected.get("subnets", ())),
        "leased": next(
            (
                f"{entry['lease_range']['start_ip']}-{entry['lease_range']['end_ip']}"
                for entry in inspected.get("subnets", ())
                if entry.get("lease_range")
            ),
            "",
        ),
    }


def leased(ip_range: str) -> str:
    """Return the first and the last address that Podman gives to containers by itself."""
    if not ip_range:
        return ""
    network = ipaddress.ip_network(ip_range)
    return f"{network.network_address + 1}-{network.broadcast_address}"


def look(host: Host, names: Iterable[str]) -> dict[str, Settings]:
    """Return the settings of those of the networks that are there."""
    present = {entry["name"] for entry in host.podman_json("network", "ls", "--format=json")}
    there = sorted(present & set(names))
    inspected = host.podman_json("network", "inspect", *there) if there else []
    return {entry["name"]: actual(entry) for entry in inspected}


def check_strangers(host: Host, names: Iterable[str]) -> None:
    """Raise HostError if containers that are no unit's are on one of the networks."""
    for name in names:
        others = sorted(container["Names"][0] for container in on(host, name) if not unit_of(container))
        if others:
            raise HostError(
                f"network {name} must be made anew, but containers that are not ours are on it: "
                f"{', '.join(others)}; remove them first"
            )


def units_on(host: Host, name: str) -> list[str]:
    """Return the units, with suffix, of the containers on a network."""
    return sorted({unit for container in on(host, name) if (unit := unit_of(container))})


def on(host: Host, name: str) -> list[dict[str, Any]]:
    """Return the containers on a network, as ``podman ps`` shows them."""
    found: list[dict[str, Any]] = host.podman_json("ps", "--all", "--format=json", f"--filter=network={name}")
    return found


def unit_of(container: Mapping[str, Any]) -> str:
    """Return the unit of a container, nothing for one that no unit runs."""
    return str((container["Labels"] or {}).get(UNIT_LABEL, ""))


def make(host: Host, wanted: Iterable[Mapping[str, Any]], present: Collection[str]) -> None:
    """Make networks; those of them that are ``present``, and that no container is on, anew."""
    declared = list(wanted)
    for network in declared:
        if network["name"] in present:
            remove(host, network["name"])
    for network in declared:
        create(host, network)


def create(host: Host, wanted: Mapping[str, Any]) -> None:
    """Make a network."""
    command = ["podman", "network", "create", f"--interface-name={wanted['interface']}"]
    # Podman gives ranges to subnets in the order of both.
    command += [f"--subnet={subnet}" for subnet in ranged_first(wanted)]
    command += [f"--ip-range={wanted['ip_range']}"] if wanted.get("ip_range") else []
    command += ["--internal"] if wanted["internal"] else ["--opt=isolate=strict"]
    command += ["--ipv6"] if wanted["ipv6"] else []
    command += [f"--label={OWNED_LABEL}=true"]
    host.run([*command, wanted["name"]])


def ranged_first(wanted: Mapping[str, Any]) -> list[str]:
    """Return the subnets, the one with the range first."""
    if not wanted.get("ip_range"):
        return list(wanted["subnets"])
    inside = ipaddress.ip_network(wanted["ip_range"]).network_address
    return sorted(wanted["subnets"], key=lambda subnet: inside not in ipaddress.ip_network(subnet))


def remove(host: Host, name: str) -> None:
    """Remove a network that no container is on."""
    host.run(["podman", "network", "rm", name])


def shown(values: Settings | None) -> str:
    """Return settings as a text for the diff."""
    return "" if values is None else json.dumps(values, indent=1, sort_keys=True) + "\n"
