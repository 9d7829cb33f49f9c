"""Progress of long work: which step of how many, how long it took, and a sign of life meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def clock(seconds: float) -> str:
    """Render a duration in seconds as ``m:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Progress:
    """Announces numbered steps on a text stream.

    ``total`` is the number of steps that will be announced, ``heartbeat`` the seconds between signs
    of life while a step runs.
    """

    def __init__(self, total: int, out: TextIO = sys.stderr, heartbeat: float = 15.0) -> None:
        self.total = total
        self.taken: list[tuple[str, float]] = []
        self._out = out
        self._heartbeat = heartbeat
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        """Write one line at once."""
        print(text, file=self._out, flush=True)

    @contextmanager
    def step(self, title: str, expected: str = "") -> Iterator[None]:
        """Run one step; ``expected`` is a human hint such as ``about 40 s``."""
        number = len(self.taken) + 1
        hint = f" ({expected})" if expected else ""
        self.say(f"[{number}/{self.total}] {title}{hint}")
        begun = time.monotonic()
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self._heartbeat):
                self.say(f"[{number}/{self.total}] … {clock(time.monotonic() - begun)} {title}")

        heart = threading.Thread(target=beat, daemon=True)
        heart.start()
        try:
            yield
        finally:
            over.set()
            heart.join()
            took = time.monotonic() - begun
            self.taken.append((title, took))
        self.say(
            f"[{number}/{self.total}] done in {clock(took)}, {clock(time.monotonic() - self._begun)} in all"
        )
