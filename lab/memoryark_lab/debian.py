"""Where the lab gets Debian 13 from: the same archives as the control machine's own apt.

The project names no mirror of its own, so whoever has one nearby uses it for the hosts as well.
"""

from __future__ import annotations

import subprocess
from functools import cache

from memoryark_lab.errors import LabError

SUITE = "trixie"

# Each of the control machine's package indexes as its archive and its release, without fetching anything.
_LIST_INDEXES = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]


def sources_of(indexes: str) -> tuple[str, ...]:
    """The lines of a sources.list for Debian 13, from lines of archive and release of another Debian.

    Releases that end in ``-updates`` and ``-security`` tell Debian's archives from those of others.
    Raises LabError when one of the two is missing.
    """
    archives: dict[str, str] = {}
    for archive, release in (line.split() for line in indexes.splitlines()):
        for kind in ("updates", "security"):
            if release.endswith(f"-{kind}"):
                archives.setdefault(kind, archive.rstrip("/"))
    missing = [kind for kind in ("updates", "security") if kind not in archives]
    if missing:
        names = " and ".join(f"{kind} suite" for kind in missing)
        raise LabError(f"apt's sources lack Debian's {names}; add it to /etc/apt/sources.list.d")
    return (
        f"deb {archives['updates']} {SUITE} main",
        f"deb {archives['updates']} {SUITE}-updates main",
        f"deb {archives['security']} {SUITE}-security main",
    )


@cache
def sources() -> tuple[str, ...]:
    """The lines of a sources.list for Debian 13 from this machine's archives; raises LabError."""
    try:
        done = subprocess.run(_LIST_INDEXES, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError(f"apt does not tell its sources: {error}") from None
    return sources_of(done.stdout)
