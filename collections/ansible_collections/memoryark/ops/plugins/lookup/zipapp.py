# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Packs a Python package into one file."""

from __future__ import annotations

DOCUMENTATION = r"""
name: zipapp
short_description: Pack a Python package into one file that Python runs
version_added: "0.1.0"
description:
  - The same package always makes the same file, so that a host that has it is left alone.
options:
  _terms:
    description: Directories of packages that have a module C(__main__) with a function C(main).
    type: list
    elements: path
    required: true
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Bring a program to the host
  memoryark.ops.files:
    files:
      - path: /usr/local/lib/program
        base64: "{{ lookup('memoryark.ops.zipapp', '/path/of/package') }}"
"""

RETURN = r"""
_raw:
  description: The files in Base64, one for each package.
  type: list
  elements: str
"""

import base64
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.memoryark.ops.plugins.plugin_utils.zipapp import pack


class LookupModule(LookupBase):
    """The rim: Ansible's way to ``pack``."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:
        """Return one text for each package; raises AnsibleError."""
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return [base64.b64encode(pack(Path(term))).decode() for term in terms]
        except OSError as error:
            raise AnsibleError(f"{error}") from error
