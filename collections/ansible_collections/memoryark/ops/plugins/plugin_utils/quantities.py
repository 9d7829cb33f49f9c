# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compose's notations for sizes, durations and processor shares.

Source: the Compose Specification, "Specifying byte values" and "Specifying durations".
"""

from __future__ import annotations

import re

MAX_PORT = 65_535

_SIZE = re.compile(r"(?P<number>\d+)\s*(?P<unit>b|k|kb|m|mb|g|gb)?", re.IGNORECASE)
_SIZE_FACTOR = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:us|ms|h|m|s))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|h|m|s)")
_DURATION_FACTOR = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_size(text: str | int) -> int:
    """Return a Compose byte value in bytes; raises ValueError with the right form in its message."""
    match = _SIZE.fullmatch(str(text).strip())
    if match is None or isinstance(text, bool):
        raise ValueError(f"'{text}' is not a size; write a whole number with b, k, m or g, as in 512M")
    unit = (match["unit"] or "").lower()
    return int(match["number"]) * _SIZE_FACTOR[unit[:1]]


def parse_duration(text: str) -> float:
    """Return a Compose duration in seconds; raises ValueError with the right form in its message."""
    if not isinstance(text, str) or _DURATION.fullmatch(text) is None:
        raise ValueError(f"'{text}' is not a duration; write numbers with us, ms, s, m or h, as in 1m30s")
    return sum(float(number) * _DURATION_FACTOR[unit] for number, unit in _DURATION_PART.findall(text))


def parse_cpus(text: str | float) -> float:
    """Return a number of processors; raises ValueError with the right form in its message."""
    try:
        cpus = float(text)
    except (TypeError, ValueError):
        cpus = 0.0
    if isinstance(text, bool) or not 0 < cpus < float("inf"):
        raise ValueError(f"'{text}' is not a number of processors; write a number above 0, as in '0.5'")
    return cpus


def seconds(value: float) -> str:
    """Render seconds for systemd and Podman without a needless fraction: ``5s``, ``0.5s``."""
    return f"{value:g}s" if value < 1e6 else f"{round(value)}s"
