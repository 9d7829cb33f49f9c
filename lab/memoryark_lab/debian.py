"""Where the lab gets Debian 13 from: the same archives as the control machine's own apt.

The project names no mirror of its own, so whoever has one nearby uses it for the hosts as well.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache

from ansible_collections.memoryark.ops.plugins.module_utils import debian

from memoryark_lab.errors import LabError

SUITE = debian.SUITE


def sources_of(indexes: str) -> tuple[str, ...]:
    """As the collection's; raises LabError when apt's sources lack a suite of Debian."""
    try:
        return debian.sources_of(indexes)
    except ValueError as error:
        raise LabError(str(error)) from None


@cache
def sources() -> tuple[str, ...]:
    """The lines of a sources.list for Debian 13 from this machine's archives; raises LabError."""
    try:
        done = subprocess.run(debian.LIST_INDEXES, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError(f"apt does not tell its sources: {error}") from None
    return sources_of(done.stdout)


@cache
def own_mounts() -> tuple[str, ...]:
    """What goes before mmdebstrap's command, so that the mounts of this machine stay as they are.

    As root mmdebstrap makes every mount that it sees private: whatever is mounted later is then no longer
    seen by the services here. As another user it has a mount namespace of its own, and a root that may
    not make one may not change a mount either.
    """
    if os.geteuid() != 0:
        return ()
    command = ("unshare", "--mount")
    may = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if may else ()
