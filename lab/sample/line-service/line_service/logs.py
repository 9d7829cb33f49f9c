"""The log files of the real service: JSON lines by day, and coloured text on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

LEVELS = {"error": 0, "warn": 1, "info": 2, "http": 3, "debug": 4}
_COLOURS = {"error": 31, "warn": 33, "info": 32, "http": 35, "debug": 37}


def stamp(now: datetime) -> str:
    """Format a time as the real service does: it means milliseconds, and writes minute and second."""
    return f"{now:%Y-%m-%d %H:%M:%S}:{now.minute}{now.second}"


class Log:
    """Writes to ``combined-DATE.log`` and ``error-DATE.log``.

    Only NODE_ENV decides the level: everything in development, errors and warnings otherwise.
    """

    def __init__(
        self, directory: Path, environment: str, clock: Callable[[], datetime] = datetime.now
    ) -> None:
        self._directory = directory
        self._limit = LEVELS["debug" if environment == "development" else "warn"]
        self._clock = clock

    def write(self, level: str, service: str | None, message: str, **fields: Any) -> None:
        """Log one event; the fields come out in alphabetical order, None is left out."""
        if LEVELS[level] > self._limit:
            return
        now = self._clock()
        entry = {"level": level, "message": message, "timestamp": stamp(now), "service": service, **fields}
        kept = {key: value for key, value in entry.items() if value is not None}
        line = json.dumps(kept, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n"
        names = ["combined", "error"] if level == "error" else ["combined"]
        for name in names:
            # Opened every time: the day may have changed, and a log rotation may have moved the file.
            with (self._directory / f"{name}-{now:%Y-%m-%d}.log").open("a", encoding="utf-8") as file:
                file.write(line)
        colour = _COLOURS[level]
        print(f"{stamp(now)} \x1b[{colour}m{level}\x1b[39m: \x1b[{colour}m{message}\x1b[39m", flush=True)

    def failure(self, error: Exception, context: str, **metadata: Any) -> None:
        """Log an exception; the real service appends its message to that of the log entry."""
        self.write(
            "error",
            None,
            f"Application error {error}",
            context=context,
            metadata=json.dumps(metadata, ensure_ascii=False) if metadata else None,
            stack=f"{type(error).__name__}: {error}",
        )

    def open(self) -> None:
        """Make sure that the files can be written."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            probe = self._directory / f"combined-{self._clock():%Y-%m-%d}.log"
            probe.open("a").close()
        except OSError as error:
            sys.exit(f"cannot write logs: {error}")
