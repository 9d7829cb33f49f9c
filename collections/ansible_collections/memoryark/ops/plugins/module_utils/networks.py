# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Podman networks as they are declared. Podman cannot change one, only make it anew.

This file is also a program: a boot runs it before the containers start, since a power cut may have come when
networks of the present release were removed for one that was only being tried.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils.host import (
    OWNED_LABEL,
    PREFIX,
    UNIT_LABEL,
    Host,
    HostError,
)

Settings = dict[str, Any]

# The unit that runs this file at boot, and where this file and the one that it needs are then.
UNIT = "memoryark-networks.service"
PACKAGES = "/usr/lib/memoryark"
# Where Podman keeps a file for each network, with what ``podman network inspect`` shows of it.
_FILES = "/etc/containers/networks"


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


def noted(host: Host, name: str) -> Settings | None:
    """Return the settings of a network by Podman's own file, None if that is missing or damaged."""
    try:
        return actual(json.loads(host.read(f"{_FILES}/{name}.json") or ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def in_the_way(host: Host, declared: Mapping[str, Mapping[str, Any]], making: Collection[str]) -> list[str]:
    """Return networks of this project that are not ``declared`` and have what those in ``making`` are to get.

    That is the bridge or addresses, which Podman gives to one network only.
    """
    if not making:
        return []
    wanted = [settings(declared[name]) for name in making]
    return colliding(look(host, owned(host) - set(declared)), wanted)


def owned(host: Host) -> set[str]:
    """Return the names of this project's networks."""
    return {
        entry["name"]
        for entry in host.podman_json("network", "ls", "--format=json")
        if OWNED_LABEL in (entry.get("labels") or {})
    }


def collide(one: Settings, other: Settings) -> bool:
    """Whether two networks cannot be on one host."""
    pairs = (
        (ipaddress.ip_network(a), ipaddress.ip_network(b)) for a in one["subnets"] for b in other["subnets"]
    )
    return one["interface"] == other["interface"] or any(
        a.version == b.version and a.overlaps(b) for a, b in pairs
    )


def colliding(networks: Mapping[str, Settings], others: Collection[Settings]) -> list[str]:
    """Return the names of those ``networks`` that cannot be on one host with one of ``others``."""
    return [name for name, one in networks.items() if any(collide(one, other) for other in others)]


def check_strangers(host: Host, names: Iterable[str], prefix: str = PREFIX) -> None:
    """Raise HostError if there are ``strangers`` on one of the networks."""
    for name in names:
        others = sorted(strangers(on(host, name), prefix))
        if others:
            raise HostError(
                f"network {name} must be made anew, but containers that are not ours are on it: "
                f"{', '.join(others)}; remove them first"
            )


def strangers(containers: Iterable[Mapping[str, Any]], prefix: str = PREFIX) -> list[str]:
    """Return the names of those containers, as ``podman ps`` shows them, that no unit with ``prefix`` runs.

    A release knows how to start its own units again and no others; whoever can start any has no prefix.
    """
    units = ((one["Names"][0], unit_of(one)) for one in containers)
    return [name for name, unit in units if not unit or not unit.startswith(prefix)]


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


def make(host: Host, wanted: Iterable[Mapping[str, Any]], leaving: Iterable[str]) -> None:
    """Make networks after those in ``leaving``, which no container is on, were removed."""
    for name in leaving:
        remove(host, name)
    for network in wanted:
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


# --- at boot


def restore(host: Host, manifest: str) -> list[str]:
    """Make those networks of the release with this ``manifest`` that are not as declared; return their names.

    No container runs yet. Whether there is anything to do is read from Podman's files, which is quicker than
    to ask Podman. Raises HostError with all that could not be done, after what could; ValueError, KeyError or
    TypeError for a damaged manifest.
    """
    declared: dict[str, Any] = json.loads(host.read(manifest) or "{}").get("networks", {})
    wanted = {name: settings(network) for name, network in declared.items()}
    if all(noted(host, name) == one for name, one in wanted.items()):
        return []
    present = look(host, wanted)
    making = [name for name in wanted if present.get(name) != wanted[name]]
    leaving = [*(name for name in making if name in present), *in_the_way(host, declared, making)]
    errors = []
    for step in [
        *(partial(clear, host, name) for name in leaving),
        *(partial(create, host, declared[name]) for name in making),
    ]:
        try:
            step()
        except HostError as error:
            errors.append(str(error))
    if errors:
        raise HostError("\n".join(errors))
    return making


def clear(host: Host, name: str) -> None:
    """Remove a network and what a power cut left of our containers on it; raises HostError if one runs."""
    containers = on(host, name)
    others = strangers(containers)
    if others:
        raise HostError(f"network {name} stays: containers that are not ours are on it: {', '.join(others)}")
    if containers:
        host.run(["podman", "rm", *(one["Id"] for one in containers)])
    remove(host, name)


def run_command(argv: Sequence[str], **_options: Any) -> tuple[int, str, str]:
    """Run a command as ``AnsibleModule.run_command`` does."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def main() -> None:
    """Run at boot, before the containers start."""
    try:
        for name in restore(Host(run_command), sys.argv[1]):
            sys.stdout.write(f"{name} is as the present release has it\n")
    except (HostError, OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{error}\nDeploy again, with site.yml; it makes the networks anew.") from error


if __name__ == "__main__":
    main()
