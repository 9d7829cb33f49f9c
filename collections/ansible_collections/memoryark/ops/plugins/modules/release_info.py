#!/usr/bin/python
# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tells which releases a host keeps and how it is."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: Tell which releases a host keeps and how its services are
version_added: "0.1.0"
description:
  - Only looks. Works on a host that was never deployed to.
options:
  root:
    description: Host directory of data and configuration.
    type: path
    required: true
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Look
  memoryark.ops.release_info:
    root: /srv/memoryark
  register: status
"""

RETURN = r"""
current:
  description: Number of the release that the host boots, null before the first.
  returned: success
  type: int
releases:
  description: The releases that can be brought back, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    number:
      description: Its number.
      type: int
    time:
      description: When it was first healthy.
      type: str
    by:
      description: Who deployed it.
      type: str
    commit:
      description: Of which version of the project.
      type: str
    before:
      description: The release that ran before it, null for the first. A rollback goes there.
      type: int
    images:
      description: The images that it runs.
      type: list
      elements: str
units:
  description:
    - The state of the present release's units by name, as systemd has it.
    - One that stands in for others during a change is among them if it was left over.
  returned: success
  type: dict
interrupted:
  description: Units of a run that did not come to its end. The next deployment puts them in order.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.store import Store
from ansible_collections.memoryark.ops.plugins.module_utils.transaction import left_over, trial_units


def look(host: Host, root: str) -> dict[str, Any]:
    """Return the module's result."""
    store = Store(host, root)
    current, kept = store.current(), store.releases()
    release = store.load(current)
    states = host.unit_states({unit.name for unit in release.units}, "ActiveState", "SubState")
    left = left_over(release, states)
    return {
        "changed": False,
        "current": current,
        "releases": [
            {"number": number, **store.origin(number), "images": sorted(kept[number].images)}
            for number in store.proven()
        ],
        "units": {
            name: f"{state['ActiveState']} ({state['SubState']})"
            for name, state in states.items()
            if name in release.names | left
        },
        "interrupted": sorted(trial_units(host) | left),
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={"root": {"type": "path", "required": True}}, supports_check_mode=True
    )
    try:
        module.exit_json(**look(Host(module.run_command), module.params["root"]))
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
