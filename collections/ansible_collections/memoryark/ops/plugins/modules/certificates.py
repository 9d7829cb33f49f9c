#!/usr/bin/python
# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Has the right certificate served."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificates
short_description: Have the right certificate served
version_added: "0.1.0"
description:
  - Runs the host's own program, which also runs by a timer, and tells what it did.
options:
  state:
    description:
      - V(prepared) gives a proxy that has no certificate one to start with.
      - V(served) gets a certificate if it is time, and has the newest one served.
    type: str
    choices: [prepared, served]
    default: served
  program:
    description: Where the program is on the host.
    type: path
    default: /usr/lib/memoryark/agent
attributes:
  check_mode:
    description: Tells what would be done. On a host without the program that is everything.
    support: full
  diff_mode:
    description: There is no text to compare.
    support: none
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Have the right certificate served
  memoryark.ops.certificates:
    state: served
"""

RETURN = r"""
said:
  description: What was, or in check mode would be, done and why.
  returned: success
  type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError

VERBS = {"prepared": "prepare", "served": "renew"}


def act(host: Host, state: str, program: str, check: bool) -> dict[str, Any]:
    """Run the program; return the module's result. Raises HostError with what the program says."""
    if check and not host.path(program).exists():
        return {"changed": True, "said": "changed: the host has no program for it yet"}
    # -I: nothing that is installed for Python on the host. -B: no compiled files.
    command = ["/usr/bin/python3", "-I", "-B", program, "certificates", VERBS[state]]
    said = host.run([*command, *(["--dry-run"] if check else [])]).strip()
    return {"changed": said.startswith("changed"), "said": said}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["prepared", "served"], "default": "served"},
            "program": {"type": "path", "default": "/usr/lib/memoryark/agent"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        result = act(Host(module.run_command), params["state"], params["program"], module.check_mode)
    except HostError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
