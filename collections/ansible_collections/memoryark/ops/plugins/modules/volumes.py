#!/usr/bin/python
# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps the directories and volumes that hold data."""

from __future__ import annotations

DOCUMENTATION = r"""
module: volumes
short_description: Keep the directories and Podman volumes that hold data
version_added: "0.1.0"
description:
  - Makes missing directories and volumes, and corrects owner and mode of directories.
  - Never removes anything and never changes what is inside a directory, but for the attribute that
    makes writes synchronous.
options:
  root:
    description: The directory above all others. It belongs to root and only root can look into it.
    type: path
    required: true
  directories:
    description: Directories below the root, parents first.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path below the root.
        type: str
        required: true
      owner:
        description: Numeric owner.
        type: int
        default: 0
      group:
        description: Numeric group.
        type: int
        default: 0
      mode:
        description: Octal mode such as C('0750').
        type: str
        default: "0750"
      synchronous:
        description:
          - Whether what is written in it, and in directories below, is on the disk before a write returns.
          - For programs that say that data is safe before it is. It is the attribute C(S) of chattr(1).
        type: bool
        default: false
  volumes:
    description: Names of Podman volumes.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Reports what would be made or corrected.
    support: full
  diff_mode:
    description: Shows owner, mode and attribute before and after.
    support: full
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: A place for photos
  memoryark.ops.volumes:
    root: /srv/memoryark
    directories:
      - path: uploads
        mode: "0750"
"""

RETURN = r"""
directories:
  description: Directories that were made or corrected.
  returned: success
  type: list
  elements: str
volumes:
  description: Podman volumes that were made.
  returned: success
  type: list
  elements: str
"""

import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils.diff import difference
from ansible_collections.memoryark.ops.plugins.module_utils.host import OWNED_LABEL, Host, HostError

ROOT_MODE = "0750"
# linux/fs.h
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_SYNC_FL = 0x00000008


def describe(path: Path) -> str:
    """Return owner, group and mode of a directory in one line, empty if there is none."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return ""
    if not stat.S_ISDIR(info.st_mode):
        raise HostError(f"{path} is in the way: it is no directory; move it away")
    return wording(info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), is_synchronous(path))


def wording(owner: int, group: int, mode: int, synchronous: bool) -> str:
    """Return the line that describes a directory."""
    return f"owner {owner} group {group} mode {mode:04o}{' synchronous' if synchronous else ''}"


def is_synchronous(path: Path) -> bool:
    """Whether writes to files in a directory wait for the disk."""
    try:
        return bool(attributes(path) & FS_SYNC_FL)
    except OSError:
        # A file system without attributes.
        return False


def attributes(path: Path, new: int | None = None) -> int:
    """Return the attributes of a directory, set to ``new`` if it is given."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if new is not None:
            fcntl.ioctl(handle, FS_IOC_SETFLAGS, struct.pack("@l", new))
        (value,) = struct.unpack("@l", fcntl.ioctl(handle, FS_IOC_GETFLAGS, struct.pack("@l", 0)))
        return int(value)
    finally:
        os.close(handle)


def make(path: Path, entry: dict[str, Any]) -> None:
    """Make a directory if it is missing and set its owner, mode and attribute."""
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, entry["owner"], entry["group"])
    path.chmod(int(entry["mode"], 8))
    if is_synchronous(path) != entry["synchronous"]:
        # New directories inherit the attribute; those that are there already do not.
        # The top, by which the next run judges, comes last.
        for folder, _folders, _files in os.walk(path, topdown=False):
            set_synchronous(Path(folder), entry["synchronous"])


def set_synchronous(path: Path, wanted: bool) -> None:
    """Let writes to files in a directory wait for the disk, or not; raises HostError."""
    try:
        present = attributes(path)
        attributes(path, present | FS_SYNC_FL if wanted else present & ~FS_SYNC_FL)
    except OSError as error:
        raise HostError(
            f"{path}: its file system cannot keep writes synchronous ({error.strerror}); use ext4 or XFS, "
            "or set x-memoryark.synchronous of the volume to false"
        ) from error


def keep(host: Host, params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Make what is missing, correct what differs; return the module's result."""
    root = {"path": "", "owner": 0, "group": 0, "mode": ROOT_MODE, "synchronous": False}
    changed, diff = [], []
    for entry in [root, *params["directories"]]:
        name = f"{params['root']}/{entry['path']}".rstrip("/")
        before = describe(host.path(name))
        after = wording(entry["owner"], entry["group"], int(entry["mode"], 8), entry["synchronous"])
        if before != after:
            changed.append(name)
            diff.append(difference(name, f"{before}\n" if before else "", f"{after}\n"))
            if not check:
                make(host.path(name), entry)
    present = {entry["Name"] for entry in host.podman_json("volume", "ls", "--format=json")}
    missing = [name for name in params["volumes"] if name not in present]
    for name in missing:
        diff.append(difference(name, "", f"podman volume {name}\n"))
        if not check:
            host.run(["podman", "volume", "create", f"--label={OWNED_LABEL}=true", name])
    return {
        "changed": bool(changed or missing),
        "directories": changed,
        "volumes": missing,
        "diff": diff,
    }


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "directories": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "str", "required": True},
                    "owner": {"type": "int", "default": 0},
                    "group": {"type": "int", "default": 0},
                    "mode": {"type": "str", "default": "0750"},
                    "synchronous": {"type": "bool", "default": False},
                },
            },
            "volumes": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**keep(Host(module.run_command), module.params, module.check_mode))
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
