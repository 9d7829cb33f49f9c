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
      ip_range:
        description:
          - The part of one subnet from which containers get addresses, all of it if empty.
          - The rest is for those that have an address of their own.
        type: str
        default: ""
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

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils import networks
from ansible_collections.memoryark.ops.plugins.module_utils.diff import difference
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.units import stop_for_sure


def keep(host: Host, wanted: list[dict[str, Any]], check: bool) -> dict[str, Any]:
    """Make what is missing and what differs; return the module's result."""
    after = {network["name"]: networks.settings(network) for network in wanted}
    before = networks.look(host, after)
    created = [name for name in after if name not in before]
    recreated = [name for name in after if name in before and before[name] != after[name]]
    # Units are started again, whosever they are.
    networks.check_strangers(host, recreated, prefix="")
    stopped = sorted({unit for name in recreated for unit in networks.units_on(host, name)})
    if not check:
        stop_for_sure(host, [unit.removesuffix(".service") for unit in stopped])
        networks.make(host, [one for one in wanted if one["name"] in {*created, *recreated}], recreated)
    return {
        "changed": bool(created or recreated),
        "created": created,
        "recreated": recreated,
        "stopped": stopped,
        "diff": [
            difference(f"network {name}", networks.shown(before.get(name)), networks.shown(after[name]))
            for name in [*created, *recreated]
        ],
    }


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
                    "ip_range": {"type": "str", "default": ""},
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
