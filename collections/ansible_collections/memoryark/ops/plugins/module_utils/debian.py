# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The Debian root file system that images which are built without any registry stand on."""

from __future__ import annotations

SUITE = "trixie"
# Each of a machine's package indexes as its archive and its release, without fetching anything.
LIST_INDEXES = ("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
_DPKG_OPTIONS = (
    # Licences stay; what only people read goes.
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
)


def sources_of(indexes: str) -> tuple[str, ...]:
    """Return the lines of a sources.list for ``SUITE`` from what ``LIST_INDEXES`` prints on any Debian.

    Releases that end in ``-updates`` and ``-security`` tell Debian's archives from those of others.
    Raises ValueError when one of the two is missing.
    """
    archives: dict[str, str] = {}
    for archive, release in (line.split() for line in indexes.splitlines()):
        for kind in ("updates", "security"):
            if release.endswith(f"-{kind}"):
                archives.setdefault(kind, archive.rstrip("/"))
    missing = [kind for kind in ("updates", "security") if kind not in archives]
    if missing:
        names = " and ".join(f"{kind} suite" for kind in missing)
        raise ValueError(f"apt's sources lack Debian's {names}; add it to /etc/apt/sources.list.d")
    return (
        f"deb {archives['updates']} {SUITE} main",
        f"deb {archives['updates']} {SUITE}-updates main",
        f"deb {archives['security']} {SUITE}-security main",
    )


def debootstrap_command(target: str, *sources: str) -> list[str]:
    """Return the command that makes the root file system as a tar archive, from lines of a sources.list."""
    return [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        "--components=main",
        "--include=ca-certificates,tzdata",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        *(f"--dpkgopt={option}" for option in _DPKG_OPTIONS),
        SUITE,
        target,
        *sources,
    ]
