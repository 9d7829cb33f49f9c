#!/usr/bin/python
# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps Podman networks as they are declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: networks
short_description: Keep Podman networks as they are declared
version_added: "0.1.0"
description:
  - Creates missing networks, and makes those anew whose settings differ. Podman cannot change a network.
  - Networks that are not internal are isolated from all others (C(isolate=strict)).
  - Before a network is made anew, the units of the containers on it are stopped.
    Starting them is left to the M(memoryark.ops.release) module.
options:
  networks:
    description: The networks.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name in Podman.
        type: str
        required: true
      interface:
        description: Name of the bridge on the host, at most 15 characters, for firewall rules.
        type: str
        required: true
      internal:
        description: Whether the network has no way out of the host.
        type: bool
        default: false
      ipv6:
        description: Whether containers get IPv6 addresses.
        type: bool
        default: false
      subnets:
        description: The subnets; the first address of each is the bridge's.
        type: list
        elements: str
        required: true
attributes:
  check_mode:
    description: Reports which networks would be made.
    support: full
  diff_mode:
    description: Shows the settings of each network before and after.
    support: full
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: An internal network
  memoryark.ops.networks:
    networks:
      - name: memoryark-backend-net
        interface: ark-backend
        internal: true
        subnets: [10.89.2.0/24]
"""

RETURN = r"""
created:
  description: Networks that were missing.
  returned: success
  type: list
  elements: str
recreated:
  description: Networks whose settings differed.
  returned: success
  type: list
  elements: str
stopped:
  description: Units that were stopped, because a network of theirs was made anew.
  returned: success
  type: list
  elements: str
"""

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils.diff import difference
from ansible_collections.memoryark.ops.plugins.module_utils.host import UNIT_LABEL, Host, HostError


def settings(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what a declared network has to look like."""
    return {
        "driver": "bridge",
        "interface": wanted["interface"],
        "internal": wanted["internal"],
        "ipv6": wanted["ipv6"],
        "isolate": "" if wanted["internal"] else "strict",
        "subnets": sorted(wanted["subnets"]),
    }


def actual(inspected: dict[str, Any]) -> dict[str, Any]:
    """Return the same settings of a network as ``podman network inspect`` shows it."""
    return {
        "driver": inspected["driver"],
        "interface": inspected["network_interface"],
        "internal": inspected["internal"],
        "ipv6": inspected["ipv6_enabled"],
        "isolate": inspected.get("options", {}).get("isolate", ""),
        "subnets": sorted(entry["subnet"] for entry in inspected.get("subnets", ())),
    }


def create_command(wanted: dict[str, Any]) -> list[str]:
    """Return the command that makes a network."""
    command = ["podman", "network", "create", f"--interface-name={wanted['interface']}"]
    command += [f"--subnet={subnet}" for subnet in wanted["subnets"]]
    command += ["--internal"] if wanted["internal"] else ["--opt=isolate=strict"]
    command += ["--ipv6"] if wanted["ipv6"] else []
    return [*command, wanted["name"]]


def keep(host: Host, networks: list[dict[str, Any]], check: bool) -> dict[str, Any]:
    """Make what is missing or differs; return the module's result."""
    names = [entry["name"] for entry in host.podman_json("network", "ls", "--format=json")]
    there = [network["name"] for network in networks if network["name"] in names]
    inspected = host.podman_json("network", "inspect", *there) if there else []
    before = {entry["name"]: actual(entry) for entry in inspected}
    after = {network["name"]: settings(network) for network in networks}
    created = [name for name in after if name not in before]
    recreated = [name for name in after if name in before and before[name] != after[name]]
    stopped: list[str] = []
    if not check:
        for name in recreated:
            stopped += release_network(host, name)
        for network in networks:
            if network["name"] in {*created, *recreated}:
                host.run(create_command(network))
    return {
        "changed": bool(created or recreated),
        "created": created,
        "recreated": recreated,
        "stopped": sorted(set(stopped)),
        "diff": [
            difference(f"network {name}", shown(before.get(name)), shown(after[name]))
            for name in [*created, *recreated]
        ],
    }


def release_network(host: Host, name: str) -> list[str]:
    """Stop what uses a network and remove it; return the stopped units."""
    containers = host.podman_json("ps", "--all", "--format=json", f"--filter=network={name}")
    units = sorted({c["Labels"][UNIT_LABEL] for c in containers if UNIT_LABEL in (c["Labels"] or {})})
    if units:
        host.run(["systemctl", "stop", *units])
    left = host.podman_json("ps", "--all", "--format=json", f"--filter=network={name}")
    if left:
        others = ", ".join(sorted(c["Names"][0] for c in left))
        raise HostError(
            f"network {name} must be made anew, but containers that are not ours are on it: {others}; "
            "remove them first"
        )
    host.run(["podman", "network", "rm", name])
    return units


def shown(values: dict[str, Any] | None) -> str:
    """Return settings as a text for the diff."""
    return "" if values is None else json.dumps(values, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "networks": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "interface": {"type": "str", "required": True},
                    "internal": {"type": "bool", "default": False},
                    "ipv6": {"type": "bool", "default": False},
                    "subnets": {"type": "list", "elements": "str", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**keep(Host(module.run_command), module.params["networks"], module.check_mode))
    except HostError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
