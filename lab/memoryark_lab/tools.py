"""Programs of Debian 13 for a control machine that may run an older Debian.

Packages are unpacked into the cache and never installed: only programs that need nothing but the C
library can be used this way.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from memoryark_lab import debian, files
from memoryark_lab.errors import LabError
from memoryark_lab.paths import CACHE

DOCKER_COMPOSE = "usr/libexec/docker/cli-plugins/docker-compose"


def unpacked(package: str) -> Path:
    """The tree of a Debian 13 package and what it depends on; fetched on first use, about 10 s.

    Raises LabError when it cannot be fetched.
    """
    tree = CACHE / "tools" / f"{debian.SUITE}-{package}"
    with files.locked(CACHE / "tools.lock", "the tools"):
        if not tree.exists():
            tree.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=tree.parent) as work:
                _fetch(package, Path(work) / "tree").rename(tree)
    return tree


def _fetch(package: str, target: Path) -> Path:
    options = ["--quiet", "--variant=extract", f"--include={package}"]
    command = [*debian.own_mounts(), "mmdebstrap", *options, debian.SUITE, str(target), *debian.sources()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{package} of Debian {debian.SUITE} cannot be fetched: {done.stderr.strip()[-400:]}")
    return target


def docker_compose() -> Path:
    """The Compose program, whose ``config`` command needs no engine."""
    return unpacked("docker-compose") / DOCKER_COMPOSE
