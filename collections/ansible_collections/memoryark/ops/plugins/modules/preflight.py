#!/usr/bin/python
# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Check inventory, catalogue and host, and render the release
version_added: "0.1.0"
description:
  - Reads the C(memoryark_…) settings of the inventory and the catalogue, and merges the inventory's changes.
  - Checks everything, and looks at the host.
  - Fails once with every problem. Nothing on the host is changed.
  - Otherwise sets the fact C(memoryark_release), which the roles bring to the host.
options:
  stack:
    description: Folder of the catalogue on the control node.
    type: path
    required: true
  breaking_changes:
    description: File with the breaking changes of the project, on the control node.
    type: path
    required: true
attributes:
  check_mode:
    description: The action only reads.
    support: full
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Check everything first
  memoryark.ops.preflight:
    stack: stack
    breaking_changes: docs/breaking-changes.yml
"""

RETURN = r"""
ansible_facts:
  description:
    - Holds C(memoryark_release), the rendered release.
    - And C(packages), what is installed, as M(ansible.builtin.package_facts) has it.
    - With it roles need not ask apt, which takes seconds.
  returned: success
  type: dict
"""
