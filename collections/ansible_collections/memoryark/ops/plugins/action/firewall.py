# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings the rules of the firewall to the host, and proves by a new connection that it still has access."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.memoryark.ops.plugins.module_utils.audit import BUSY

FIREWALL = "memoryark.ops.firewall"
# How long a host is waited for that has put its old rules back: its timer is a second late at most.
PATIENCE = 60.0
POLL = 1.0
LOCKED_OUT = (
    "The new firewall rules kept this control node out, so the host has put the old ones back. "
    "memoryark_ssh_sources must have the address from which the host sees this control node, and "
    "memoryark_ssh_ports the port of its SSH server. It said: "
)
TOO_BUSY = (
    "Another deployment was at work until the time for the new firewall rules was over, so the host has put "
    "the old ones back. Run this again. It said: "
)


class ActionModule(ActionBase):
    """The rim: new rules count once a connection that began under them has said so."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of the module; failed if the new rules keep this control node out."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        begun = time.monotonic()
        result |= self._firewall(self._task.args, task_vars)
        if not result.get("pending"):
            return result
        answer = self._confirm(begun + float(self._task.args.get("seconds", 45)) + PATIENCE, task_vars)
        if answer.get("failed"):
            why = TOO_BUSY if answer.get("busy") else LOCKED_OUT
            return result | {"failed": True, "changed": False, "msg": f"{why}{answer.get('msg')}"}
        return result | {"pending": False}

    def _firewall(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name=FIREWALL, module_args=dict(arguments), task_vars=task_vars or {}
        )
        return answer

    def _confirm(self, deadline: float, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Confirm by a connection of its own. One that began earlier would be let through anyhow.

        Somebody else's deployment may have come in between; the result tells if it was ``busy`` with one.
        """
        busy = False
        while True:
            try:
                self._connection.reset()
                answer = self._firewall({"confirm": True}, task_vars)
                if BUSY not in str(answer.get("msg")) or time.monotonic() > deadline:
                    return answer | {"busy": busy}
                busy = True
                time.sleep(POLL)
            except AnsibleConnectionFailure as error:
                if time.monotonic() > deadline:
                    return {"failed": True, "msg": str(error)}
