"""The two logs of the real application: Go's in a file, the web framework's on standard output."""

from __future__ import annotations

import logging
import sys
import time
from datetime import datetime
from pathlib import Path


def to_file(directory: Path) -> None:
    """Append everything that is logged to memoryark.log, in the format of Go's log package."""
    directory.mkdir(parents=True, exist_ok=True)
    # Append mode on every write: the file may be truncated by a log rotation at any time.
    handler = logging.FileHandler(directory / "memoryark.log", mode="a", encoding="utf-8")
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(name)s.go:%(lineno)d: %(message)s", "%Y/%m/%d %H:%M:%S")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # aiohttp's own access log would be a second one.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def request_line(status: int, begun: float, client: str, method: str, path: str) -> None:
    """Print a finished request as the web framework of the real application does."""
    took = (time.monotonic() - begun) * 1000
    when = datetime.now().strftime("%Y/%m/%d - %H:%M:%S")
    line = f'[GIN] {when} | {status:3d} | {took:11.6f}ms | {client:>15} | {method:<7} "{path}"'
    print(line, file=sys.stdout, flush=True)
