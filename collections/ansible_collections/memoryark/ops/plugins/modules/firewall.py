#!/usr/bin/python
# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps the rules of the host's firewall."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall
short_description: Keep the rules of the host's firewall
version_added: "0.1.0"
description:
  - Keeps the nftables table C(inet memoryark). Rules of Podman and of others are in other tables and stay.
  - New rules are confirmed by a new connection to the host. Without that the host puts the old ones back.
  - What containers may do belongs to a release; M(memoryark.ops.release) keeps it in sets of this table.
options:
  ssh_ports:
    description: Ports of the SSH server.
    type: list
    elements: int
    default: [22]
  ssh_sources:
    description:
      - Addresses and networks that may use SSH. All, if empty, with a limit for each.
    type: list
    elements: str
    default: []
  openings:
    description: Other ports of the host itself that are reached from outside.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: The port.
        type: int
        required: true
      protocol:
        description: The protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      sources:
        description: Addresses and networks that may use it, all if empty.
        type: list
        elements: str
        default: []
  seconds:
    description: After so many seconds the host puts back what is not confirmed.
    type: int
    default: 45
  confirm:
    description:
      - Confirms the rules that are being tried, in place of changing any. The action does that itself.
    type: bool
    default: false
attributes:
  check_mode:
    description: Reports whether the rules would change.
    support: full
  diff_mode:
    description: Shows the rules before and after.
    support: full
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: SSH from the office only
  memoryark.ops.firewall:
    ssh_sources: [192.0.2.0/24]
"""

RETURN = r"""
pending:
  description: Whether new rules wait for their confirmation.
  returned: success
  type: bool
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils import guard, nftables
from ansible_collections.memoryark.ops.plugins.module_utils.audit import run_alone
from ansible_collections.memoryark.ops.plugins.module_utils.diff import difference
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host


def keep(host: Host, params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Try the rules if they are not the ones that are there; return the module's result."""
    if params["confirm"]:
        if not check:
            guard.confirm(host, nftables.GUARD)
        return {"changed": True, "pending": False}
    text = nftables.render(rules(params))
    proven = host.read(nftables.GUARD.proven)
    changed = proven != text or not nftables.is_live(host, text)
    if changed and not check:
        guard.attempt(host, nftables.GUARD, text, params["seconds"])
    return {
        "changed": changed,
        "pending": changed and not check,
        "diff": [difference(nftables.GUARD.proven, proven or "", text)] if changed else [],
    }


def rules(params: dict[str, Any]) -> nftables.Rules:
    """Return the rules that the module's parameters describe."""
    return nftables.Rules(
        tuple(params["ssh_ports"]),
        tuple(params["ssh_sources"]),
        tuple(
            nftables.Opening(one["port"], one["protocol"], tuple(one["sources"]))
            for one in params["openings"]
        ),
    )


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "ssh_ports": {"type": "list", "elements": "int", "default": [22]},
            "ssh_sources": {"type": "list", "elements": "str", "default": []},
            "openings": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "port": {"type": "int", "required": True},
                    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                    "sources": {"type": "list", "elements": "str", "default": []},
                },
            },
            "seconds": {"type": "int", "default": 45},
            "confirm": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_alone(module, keep)


if __name__ == "__main__":
    main()
