"""Small helpers around files: atomic writing, locks, short paths for sockets."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from memoryark_lab.errors import LabError
from memoryark_lab.paths import STATE


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replace ``path`` atomically, so that a reader sees the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "wb") as out:
            out.write(content.encode() if isinstance(content, str) else content)
            os.fchmod(out.fileno(), mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file ``path``; says so when another run has ``what`` and waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another run of the lab is busy with {what}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def runtime_dir() -> Path:
    """The directory of this checkout's sockets, made when missing.

    A socket's path may have 107 bytes at most, fewer than a checkout's may have; so sockets live in
    the temporary directory, and a link in the state remembers where.
    """
    link = STATE / "run"
    if link.is_dir():
        return link.readlink()
    mark = hashlib.sha256(os.fsencode(STATE)).hexdigest()[:8]
    directory = Path(tempfile.gettempdir()) / f"memoryark-lab-{os.getuid()}-{mark}"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.stat(follow_symlinks=False)
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise LabError(f"{directory} belongs to somebody else; remove it, the lab keeps its sockets there")
    STATE.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    with suppress(FileExistsError):
        link.symlink_to(directory)
    return directory


def remove_runtime_dir() -> None:
    """Undo ``runtime_dir``."""
    link = STATE / "run"
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()
