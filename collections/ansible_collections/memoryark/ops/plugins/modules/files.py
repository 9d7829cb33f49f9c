#!/usr/bin/python
# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps several small files and links in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Keep several small files and links in one step
version_added: "0.1.0"
description:
  - Does what a copy task for each file would do, in one call. On a slow host each call takes seconds.
  - Files belong to root. Missing directories are made with mode C(0755).
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description:
          - Text of the file. One of this, O(files[].secret_content), O(files[].base64) and O(files[].link)
            is needed.
        type: str
      secret_content:
        description: Text of the file that is shown nowhere, and not in the diff.
        type: str
      base64:
        description: Content of a file that is no text, in Base64. Of it the diff shows the SHA-256 only.
        type: str
      link:
        description: Where a symbolic link points to.
        type: path
      mode:
        description: Octal mode of a file.
        type: str
        default: "0644"
attributes:
  check_mode:
    description: Reports what would be written.
    support: full
  diff_mode:
    description: Shows the texts before and after.
    support: full
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Bound the journal and set the time zone
  memoryark.ops.files:
    files:
      - path: /etc/systemd/journald.conf.d/bounds.conf
        content: |
          [Journal]
          SystemMaxUse=2G
      - path: /etc/localtime
        link: /usr/share/zoneinfo/Asia/Taipei
"""

RETURN = r"""
written:
  description: Paths that were written.
  returned: success
  type: list
  elements: str
"""

import base64
import hashlib
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils.diff import difference
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, make_directory

CONTENTS = ("content", "secret_content", "base64", "link")


def present(path: Path) -> tuple[str, bytes]:
    """Return what is at a path: its kind with mode or target, and its content."""
    if path.is_symlink():
        return f"link to {path.readlink()}", b""
    if path.is_file():
        return f"mode {stat.S_IMODE(path.stat().st_mode):04o}", path.read_bytes()
    return "", b""


def desired(entry: dict[str, Any]) -> tuple[str, bytes]:
    """Return the same for what is wanted."""
    if entry["link"] is not None:
        return f"link to {entry['link']}", b""
    if entry["base64"] is not None:
        content = base64.b64decode(entry["base64"])
    else:
        content = (entry["content"] if entry["secret_content"] is None else entry["secret_content"]).encode()
    return f"mode {int(entry['mode'], 8):04o}", content


def shown(content: bytes) -> str:
    """Return a file's content for the diff."""
    if b"\0" in content:
        return f"SHA-256 {hashlib.sha256(content).hexdigest()}\n"
    return content.decode(errors="replace")


def put(host: Host, entry: dict[str, Any], content: bytes) -> None:
    """Write one file or link; a link is replaced in one step as well."""
    if entry["link"] is None:
        host.write(entry["path"], content, int(entry["mode"], 8))
        return
    target = host.path(entry["path"])
    make_directory(target.parent)
    temporary = target.with_name(f".{target.name}.memoryark")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(entry["link"])
    temporary.replace(target)


def keep(host: Host, files: list[dict[str, Any]], check: bool) -> dict[str, Any]:
    """Write what is missing or differs; return the module's result."""
    written, diff = [], []
    for entry in files:
        before, after = present(host.path(entry["path"])), desired(entry)
        if before == after:
            continue
        written.append(entry["path"])
        states = (before[0] or "absent", after[0])
        texts = shown(before[1]), shown(after[1])
        if entry["secret_content"] is not None:
            texts = ("" if not before[0] else "a secret\n"), "another secret\n"
        diff.append(difference(entry["path"], *texts, states))
        if not check:
            put(host, entry, after[1])
    return {"changed": bool(written), "written": written, "diff": diff}


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    "secret_content": {"type": "str", "no_log": True},
                    "base64": {"type": "str"},
                    "link": {"type": "path"},
                    "mode": {"type": "str", "default": "0644"},
                },
                "required_one_of": [CONTENTS],
                "mutually_exclusive": [CONTENTS],
            },
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**keep(Host(module.run_command), module.params["files"], module.check_mode))
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
