"""The certificates that the proxy can be given, and the one that it has.

Each is a directory of its own, and the link ``current`` names one of them: certificate and key change
together. The proxy mounts the directory above them. A mount of single files would keep the old ones for ever.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from memoryark_agent import files, pairs
from memoryark_agent.pairs import Certificate

CURRENT = "current"
VERSIONS = "versions"
UNFINISHED = ".new-"


class Store:
    """Keeps pairs below ``directory``, readable for ``group``."""

    def __init__(self, directory: Path, group: int) -> None:
        self._directory = directory
        self._group = group

    @property
    def current(self) -> str:
        """The name of the version that the proxy has, empty without one."""
        link = self._directory / CURRENT
        return link.readlink().name if link.is_symlink() and link.is_dir() else ""

    def origin(self) -> str:
        """Return where the present certificate is from, empty without one."""
        return self.current.rpartition("-")[0]

    def read(self) -> Certificate:
        """Return the present certificate; raises AgentError."""
        return pairs.read(self._directory / CURRENT)

    def add(self, pair: Path, origin: str) -> str:
        """Copy a pair into a version of its own and return that version's name; raises AgentError."""
        name = f"{origin}-{pairs.read(pair).fingerprint[:16]}"
        version = self._directory / VERSIONS / name
        if version.is_dir():
            return name
        self._make(version.parent)
        with tempfile.TemporaryDirectory(dir=self._directory, prefix=UNFINISHED) as made:
            fresh = Path(made) / name
            self._make(fresh)
            for file in (pairs.CHAIN, pairs.KEY):
                files.write(fresh / file, (pair / file).read_bytes(), 0o640, self._group)
            fresh.rename(version)
        files.sync(version.parent)
        return name

    def switch(self, name: str) -> None:
        """Give the proxy another version, from when it reads its files anew."""
        files.link(self._directory / CURRENT, f"{VERSIONS}/{name}")

    def prune(self) -> None:
        """Delete all versions but the present one, and what a power cut left of one."""
        for version in (*(self._directory / VERSIONS).iterdir(), *self._directory.glob(f"{UNFINISHED}*")):
            if version.name != self.current:
                shutil.rmtree(version)

    def _make(self, directory: Path) -> None:
        if not directory.is_dir():
            directory.mkdir()
            os.chown(directory, -1, self._group)
            directory.chmod(0o750)
