#!/usr/bin/python
# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings an earlier release back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollback
short_description: Bring an earlier release back
version_added: "0.1.0"
description:
  - Makes a release that was healthy once the release of the host again, by the same transaction that
    M(memoryark.ops.release) uses. What it needs is on the host; nothing is fetched.
  - Data does not go back with it.
options:
  root:
    description: Host directory of data and configuration.
    type: path
    required: true
  to:
    description: Number of the release. Without it, the one that ran when the present one was made.
    type: int
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
    description: Reports the plan and changes nothing.
    support: full
  diff_mode:
    description: Shows every file that changes.
    support: full
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Go back to the release before this one
  memoryark.ops.rollback:
    root: /srv/memoryark
"""

RETURN = r"""
release:
  description: Number of the release that the host boots.
  returned: success
  type: int
to:
  description: Number of the release that was, or in check mode would be, brought back.
  returned: success
  type: int
downtime:
  description:
    - What each unit of the plan costs its users.
    - C(none); C(seconds), until it is healthy again; C(backup), the same with a copy of its databases first;
      C(removed), for good.
  returned: success
  type: dict
plan:
  description: What was, or in check mode would be, done, as M(memoryark.ops.release) returns it.
  returned: success
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils.audit import (
    audited,
    note_cut_off,
    origin,
    run_alone,
)
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.store import Store
from ansible_collections.memoryark.ops.plugins.module_utils.transaction import (
    check_strangers,
    survey,
    switch,
)


def roll_back(host: Host, params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Bring the release ``to`` back; return the module's result."""
    store = Store(host, params["root"])
    number = choose(store, params["to"])
    wanted = store.load(number)
    plan, result = survey(host, store, wanted)
    result["to"] = number
    if missing := [*plan.images, *plan.secrets]:
        raise HostError(
            f"release {number} cannot run any more, the host lacks {', '.join(missing)}; "
            "deploy its inventory instead"
        )
    if not plan.empty and not check:
        note_cut_off(host, store.current())
        with audited(host, store.current, "rollback", params, result):
            check_strangers(host, wanted, plan)
            store.put(number, wanted)
            switch(host, store, number, wanted, plan, origin=origin(params))
            result["release"] = number
    return result


def choose(store: Store, to: int | None) -> int:
    """Return the number of the release to go back to; raises HostError if there is none such."""
    proven, present = store.proven(), store.current()
    kept = ", ".join(str(number) for number in proven) or "none"
    if to is not None:
        if to not in proven:
            raise HostError(f"there is no release {to} that was ever healthy and is whole; kept are: {kept}")
        return to
    before = store.before(present)
    if before is None:
        raise HostError(f"there is no release before {present}; kept are: {kept}")
    return before


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "to": {"type": "int"},
            "by": {"type": "str", "default": ""},
            "commit": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    run_alone(module, roll_back)


if __name__ == "__main__":
    main()
