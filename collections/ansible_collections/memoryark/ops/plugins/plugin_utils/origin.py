# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who deploys, and which version of the project."""

from __future__ import annotations

import getpass
import socket
import subprocess
from pathlib import Path


def operator() -> str:
    """Return ``user@machine`` of the control node."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def version(folder: Path) -> str:
    """Return the commit of the working copy at ``folder``, with ``-dirty`` if it differs; or nothing."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
