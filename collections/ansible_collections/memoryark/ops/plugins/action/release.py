# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sends the archives of images that the host lacks, and brings the release onto it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase

RELEASE = "memoryark.ops.release"


class ActionModule(ActionBase):
    """The rim: files of the control node become files of the host, the rest is the module's."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of the module."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if not self._task.check_mode:
            arguments["archives"] = self._send(arguments.get("archives") or {})
        result |= self._execute_module(module_name=RELEASE, module_args=arguments, task_vars=task_vars or {})
        return result

    def _send(self, archives: Mapping[str, str]) -> dict[str, str]:
        """Send those of ``archives`` whose image the host lacks; return where they are on it, by reference.

        They are in the directory that Ansible removes at the end of the task.
        """
        sent: dict[str, str] = {}
        for reference, path in archives.items():
            if self._has(reference):
                continue
            shell = self._connection._shell
            if shell.tmpdir is None:
                self._make_tmp_path()
            remote = shell.join_path(shell.tmpdir, f"image-{len(sent)}.tar")
            sent[reference] = self._transfer_file(path, remote)
        return sent

    def _has(self, reference: str) -> bool:
        asked = self._low_level_execute_command(f"podman image exists {shlex.quote(reference)}")
        return bool(asked["rc"] == 0)
