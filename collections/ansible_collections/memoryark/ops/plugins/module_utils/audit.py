# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One run at a time, and one line about each that changed something."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError

CUT_OFF = "it was killed, or the power went, before its end"
LOCK = "/run/lock/memoryark-release"
BUSY = "another deployment is at work on this host"
LOG = "/var/log/memoryark/releases.log"
# The line of the run that is at work; one that is there later was cut off.
BEGUN = "/var/log/memoryark/begun.json"


@contextmanager
def alone() -> Iterator[None]:
    """Keep a second run out; the kernel gives the lock back when a run dies, however it dies."""
    with Path(LOCK).open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(f"{BUSY}; wait until it has ended") from None
        yield


def run_alone(module: AnsibleModule, work: Callable[[Host, dict[str, Any], bool], dict[str, Any]]) -> None:
    """Run ``work`` with host, parameters and check mode; end the module with its result or its error."""
    os.umask(0o022)
    try:
        with alone():
            result = work(Host(module.run_command), module.params, module.check_mode)
        for warning in result.pop("warnings", []):
            module.warn(warning)
        module.exit_json(**result)
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error))


@contextmanager
def audited(
    host: Host,
    current: Callable[[], int | None],
    action: str,
    params: Mapping[str, Any],
    result: dict[str, Any],
) -> Iterator[None]:
    """Append one JSON line about what is done within to the audit log, also when it fails.

    ``current`` tells which release the host boots. ``params`` say who (``by``) and what (``commit``),
    ``result`` has the ``plan``. A run that cannot write its line itself, because it was killed
    or the power went, has it written by the ``note_cut_off`` of the next.
    """
    begun, before = time.monotonic(), current()

    def line(error: str) -> str:
        return as_line(
            {
                "time": now(),
                "action": action,
                "by": params["by"],
                "commit": params["commit"],
                "from": before,
                "to": current(),
                "changes": {word: names for word, names in result["plan"].items() if names},
                "seconds": round(time.monotonic() - begun, 1),
                "error": error,
            }
        )

    def note(error: str) -> None:
        # A log that cannot be written must not hide what happened from the operator.
        try:
            host.append(LOG, line(error))
            host.delete(BEGUN)
        except OSError as problem:
            result.setdefault("warnings", []).append(f"{LOG} cannot be written: {problem}")

    # What is brought back in an emergency needs no room for a log.
    with suppress(OSError):
        host.write(BEGUN, line(CUT_OFF), mode=0o640)
    try:
        yield
    except (HostError, OSError) as failure:
        note(str(failure).partition("\n")[0])
        raise
    note("")


def note_cut_off(host: Host, current: int | None) -> None:
    """Append the line of a run that was killed, or lost its power, and could not do so itself."""
    text = host.read(BEGUN)
    if text is None:
        return
    with suppress(ValueError):
        host.append(LOG, as_line({**json.loads(text), "to": current}))
    host.delete(BEGUN)


def as_line(entry: Mapping[str, Any]) -> str:
    """Return an entry of the audit log as it stands there."""
    return json.dumps(entry, sort_keys=True) + "\n"


def origin(params: Mapping[str, Any]) -> dict[str, str]:
    """Return who makes a release of what, and when, to be kept with it."""
    return {"time": now(), "by": params["by"], "commit": params["commit"]}


def now() -> str:
    """Return the present time in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
