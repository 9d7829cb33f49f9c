"""Fetches the one collection that the peer needs and the project does not: containers.podman."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from memoryark_lab.errors import LabError

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
NAME = "ansible_collections/containers/podman/"


def ensure(folder: Path) -> Path:
    """Return the folder of collections below ``folder``, with the collection in it; about 20 s at first."""
    collections = folder / "collections"
    mark = collections / "requirements.txt"
    if not mark.exists() or mark.read_bytes() != REQUIREMENTS.read_bytes():
        shutil.rmtree(collections, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            unpack(_download(Path(place)), collections)
        shutil.copy(REQUIREMENTS, mark)
    return collections


def _download(place: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--dest", str(place), "--requirement", str(REQUIREMENTS)]
    if subprocess.run(command, check=False).returncode != 0:
        raise LabError(
            f"the peer's collection cannot be fetched; what pip says stands above ({REQUIREMENTS.name})"
        )
    return next(place.glob("*.whl"))


def unpack(wheel: Path, collections: Path) -> None:
    """Take the collection out of the package, and nothing else of it."""
    with zipfile.ZipFile(wheel) as package:
        package.extractall(collections, [name for name in package.namelist() if name.startswith(NAME)])


def version(collections: Path) -> str:
    """Return the version of the collection."""
    manifest = json.loads((collections / NAME / "MANIFEST.json").read_text(encoding="utf-8"))
    return str(manifest["collection_info"]["version"])
