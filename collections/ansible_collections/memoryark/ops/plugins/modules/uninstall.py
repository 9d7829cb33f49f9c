#!/usr/bin/python
# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Takes everything of this project from a host but its data."""

from __future__ import annotations

DOCUMENTATION = r"""
module: uninstall
short_description: Take everything of this project from a host but its data
version_added: "0.1.0"
description:
  - Stops the containers and removes them with their units, networks, secrets and images, the releases,
    and the files that the roles wrote. What others made stays, in the same directories as well.
  - Data stays where it is and is named, unless O(delete_data) confirms that it goes, too.
  - Debian packages, the time zone and the audit log stay. Kernel settings stay until the next boot.
  - Needs nothing of the inventory but the root. Run it again after it was interrupted.
options:
  root:
    description: Host directory of data and configuration.
    type: path
    required: true
  host:
    description: Name of the host in the inventory.
    type: str
    required: true
  confirm:
    description: Has to be the same as O(host), but in check mode.
    type: str
    default: ""
  delete_data:
    description: The same as O(host) deletes the data below the root and the Podman volumes as well.
    type: str
    default: ""
  by:
    description: Who does it, for the audit log.
    type: str
    default: ""
  commit:
    description: The version of the project that does it, for the audit log.
    type: str
    default: ""
attributes:
  check_mode:
    description: Reports what would go and what would stay.
    support: full
  diff_mode:
    description: Lists what goes.
    support: full
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Remove the platform, keep the data
  memoryark.ops.uninstall:
    root: /srv/memoryark
    host: "{{ inventory_hostname }}"
    confirm: "{{ confirm | default('') }}"
"""

RETURN = r"""
plan:
  description: What went, or in check mode would go.
  returned: success
  type: dict
  contains:
    units:
      description: Units of containers, without suffix.
      type: list
      elements: str
    links:
      description: Links by which a boot finds the release, and units of a release that was being tried.
      type: list
      elements: str
    networks:
      description: Podman networks.
      type: list
      elements: str
    secrets:
      description: Versions of secrets.
      type: list
      elements: str
    images:
      description: Images by digest.
      type: list
      elements: str
    volumes:
      description: Podman volumes, with O(delete_data) only.
      type: list
      elements: str
    files:
      description: Files that the roles wrote.
      type: list
      elements: str
    directories:
      description: Directories with all in them.
      type: list
      elements: str
kept:
  description: The data that stays.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: A path, or C(volume) and the name of a Podman volume.
      type: str
    path:
      description: Where it is.
      type: str
    bytes:
      description: How large it is.
      type: int
left:
  description: What stays because somebody else made or uses it.
  returned: success
  type: list
  elements: str
release:
  description: Number of the release that the host boots, null when the project is gone.
  returned: success
  type: int
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils import uninstall
from ansible_collections.memoryark.ops.plugins.module_utils.audit import audited, note_cut_off, run_alone
from ansible_collections.memoryark.ops.plugins.module_utils.diff import difference
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.store import Store


def take_away(host: Host, params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Remove the project from the host; return the module's result."""
    root, delete_data = params["root"], bool(params["delete_data"])
    if refused := uninstall.refusals(params["host"], params["confirm"], params["delete_data"], check):
        raise HostError("\n".join(refused))
    store = Store(host, root)
    current = store.current()
    if not check:
        note_cut_off(host, current)
    removal = uninstall.survey(host, root, delete_data)
    if removal.strangers:
        raise HostError(
            "\n".join([*removal.strangers, "Remove these containers first; nothing was changed."])
        )
    stays = uninstall.kept(host, removal)
    result: dict[str, Any] = {
        "changed": not removal.empty,
        "plan": removal.shown(),
        "kept": stays,
        "left": list(removal.left),
        "release": current,
        "diff": [difference("of this project on the host", *listings(removal, stays))],
    }
    if not removal.empty and not check:
        with audited(host, store.current, "uninstall", params, result):
            uninstall.remove(host, root, removal, delete_data)
            result["release"] = None
    return result


def listings(removal: uninstall.Removal, stays: list[dict[str, Any]]) -> tuple[str, str]:
    """Return what is there, one thing a line, before and after."""
    goes = [f"{kind}: {name}\n" for kind, names in removal.shown().items() for name in names]
    after = "".join(f"data: {entry['name']}\n" for entry in stays)
    return "".join(goes) + after, after


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "host": {"type": "str", "required": True},
            "confirm": {"type": "str", "default": ""},
            "delete_data": {"type": "str", "default": ""},
            "by": {"type": "str", "default": ""},
            "commit": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    run_alone(module, take_away)


if __name__ == "__main__":
    main()
