"""Faults that a test orders: which requests they hit and what happens to those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from line_platform.checks import FLAG, NONE, OBJECT, OPTIONAL_TEXT, SECONDS, TEXT, Is, check


@dataclass
class Fault:
    """One ordered fault.

    Matching: ``method``, ``path`` and ``host`` are shell patterns (``*`` also crosses ``/``),
    ``token`` an exact access token; all must fit. Effect: wait ``delay_seconds``, then ``drop`` the
    connection without an answer, or answer ``status`` with the raw ``body``, or, when neither is
    given, answer as ever; ``truncate`` cuts that answer's body after so many bytes while its
    Content-Length promises all of it. ``times`` None means until removed.
    """

    number: int
    method: str = "*"
    path: str = "*"
    host: str = "*"
    token: str | None = None
    delay_seconds: float = 0.0
    drop: bool = False
    status: int | None = None
    body: str = ""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    truncate: int | None = None
    times: int | None = None
    hits: int = 0

    def matches(self, method: str, host: str, path: str, token: str | None) -> bool:
        """Whether a request is to be hit."""
        return (
            (self.times is None or self.hits < self.times)
            and fnmatchcase(method, self.method.upper())
            and fnmatchcase(path, self.path)
            and fnmatchcase(host, self.host)
            and (self.token is None or self.token == token)
        )

    def public(self) -> dict[str, Any]:
        """What the control interface shows: everything but the token."""
        return {name: value for name, value in vars(self).items() if name != "token"}


_FIELDS: Mapping[str, Is] = {
    "method": TEXT,
    "path": TEXT,
    "host": TEXT,
    "token": OPTIONAL_TEXT,
    "delay_seconds": SECONDS,
    "drop": FLAG,
    "status": Is((int, NONE), least=200, most=599),
    "body": TEXT,
    "content_type": TEXT,
    "headers": OBJECT,
    "truncate": Is((int, NONE), least=0),
    "times": Is((int, NONE), least=1),
}


def parse_fault(number: int, fields: Mapping[str, Any]) -> Fault:
    """Make a fault of what a test sent; raises ControlError with every mistake in it."""
    check("fault", fields, _FIELDS)
    return Fault(number, **fields)


class FaultBook:
    """The faults in force, in the order they were ordered."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._last = 0

    def add(self, fields: Mapping[str, Any]) -> Fault:
        """Put a fault in force; raises ControlError for a bad one."""
        fault = parse_fault(self._last + 1, fields)
        self._last = fault.number
        self._faults.append(fault)
        return fault

    def take(self, method: str, host: str, path: str, token: str | None) -> Fault | None:
        """Return the first fault that hits this request and count the hit."""
        for fault in self._faults:
            if fault.matches(method, host, path, token):
                fault.hits += 1
                return fault
        return None

    def remove(self, number: int) -> bool:
        """Take one fault out of force; False when there is none of that number."""
        before = len(self._faults)
        self._faults = [fault for fault in self._faults if fault.number != number]
        return len(self._faults) < before

    def clear(self) -> None:
        """Take all faults out of force."""
        self._faults.clear()

    def listing(self) -> list[dict[str, Any]]:
        """All faults with their hits, spent ones too."""
        return [fault.public() for fault in self._faults]
