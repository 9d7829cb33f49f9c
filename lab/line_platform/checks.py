"""Checking what a test sends to the control interface, so that a typo is told and not ignored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from line_platform.errors import ControlError


@dataclass(frozen=True)
class Is:
    """What a value must be: one of ``types``, at least ``least``, at most ``most``, in ``among``."""

    types: tuple[type, ...]
    least: float | None = None
    most: float | None = None
    among: Collection[str] | None = None

    def problem(self, value: Any) -> str | None:
        """Say what is wrong with a value, or None."""
        # A bool is an int in Python.
        if not isinstance(value, self.types) or (isinstance(value, bool) and bool not in self.types):
            return f"must not be {value!r}"
        if isinstance(value, int | float):
            if self.least is not None and value < self.least:
                return f"must be at least {self.least:g}, not {value!r}"
            if self.most is not None and value > self.most:
                return f"must be at most {self.most:g}, not {value!r}"
        if self.among is not None and value not in self.among:
            return f"must be one of {', '.join(self.among)}, not {value!r}"
        return None


NONE = type(None)
TEXT = Is((str,))
OPTIONAL_TEXT = Is((str, NONE))
FLAG = Is((bool,))
OBJECT = Is((dict,))
LIST = Is((list,))
SECONDS = Is((int, float), least=0)
NUMBER = Is((int, float))


def check(what: str, values: Mapping[str, Any], allowed: Mapping[str, Is]) -> None:
    """Raise ControlError with every mistake in ``values``: unknown fields and bad values."""
    problems = []
    for name, value in values.items():
        if name not in allowed:
            problems.append(f"unknown field {name!r}, known are {', '.join(allowed)}")
        elif problem := allowed[name].problem(value):
            problems.append(f"{name} {problem}")
    if problems:
        raise ControlError(f"bad {what}: " + "; ".join(problems))
