"""Files that are replaced in one step: whoever reads them sees the old or the new, whole."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(path: Path, content: bytes, mode: int = 0o644, group: int | None = None) -> None:
    """Replace a file by one rename that survives a power cut; its directory must be there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            if group is not None:
                os.fchown(stream.fileno(), -1, group)
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def link(path: Path, target: str) -> None:
    """Let ``path`` be a symbolic link to ``target``, by one rename that survives a power cut."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)
    sync(path.parent)


def make_directory(directory: Path, mode: int = 0o755) -> None:
    """Make a directory and its parents, with these modes whatever the umask; one that is there stays."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir()
        directory.chmod(mode)


def sync(directory: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
