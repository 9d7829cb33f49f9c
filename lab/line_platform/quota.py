"""Counting messages: the monthly limit and the daily delivery numbers.

Days and months are those of UTC+9. For the daily numbers LINE documents it; for the month it is an
assumption, since no page found states the hour of the reset.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, Literal, get_args

JST = timezone(timedelta(hours=9))
FIRST_DAY = date(2018, 3, 31)

Kind = Literal["reply", "push", "multicast", "broadcast"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Replies are free of charge.
BILLED: frozenset[Kind] = frozenset({"push", "multicast", "broadcast"})


def local_day(now: float) -> date:
    """The day in UTC+9 of a moment in seconds since the epoch."""
    return datetime.fromtimestamp(now, UTC).astimezone(JST).date()


def parse_day(text: str) -> date:
    """Read ``yyyyMMdd``; raises ValueError for anything else."""
    if len(text) != 8 or not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not a date of the form yyyyMMdd")
    return date(int(text[:4]), int(text[4:6]), int(text[6:]))


@dataclass(frozen=True)
class Quota:
    """The target limit for one month; ``limit`` None means that there is none."""

    limit: int | None = None

    def body(self) -> dict[str, Any]:
        """The API's answer; ``value`` only when there is a limit."""
        return {"type": "none"} if self.limit is None else {"type": "limited", "value": self.limit}

    def allows(self, used: int, more: int) -> bool:
        """Whether ``more`` messages may be sent after ``used``."""
        return self.limit is None or used + more <= self.limit


@dataclass
class Ledger:
    """How many messages went out, by kind and day, and how many elsewhere than by the API.

    ``elsewhere`` holds by (year, month) what LINE counts besides: messages from its own manager,
    or simply what a test wants to have been used already.
    """

    sent: dict[Kind, Counter[date]] = field(default_factory=lambda: {kind: Counter() for kind in KINDS})
    elsewhere: Counter[tuple[int, int]] = field(default_factory=Counter)

    def record(self, kind: Kind, day: date, recipients: int) -> None:
        """Count one sending to so many recipients."""
        self.sent[kind][day] += recipients

    def usage(self, day: date) -> int:
        """Messages that count against the limit in the month of ``day``."""
        month = (day.year, day.month)
        billed = sum(
            count
            for kind in BILLED
            for when, count in self.sent[kind].items()
            if (when.year, when.month) == month
        )
        return billed + self.elsewhere[month]

    def set_usage(self, day: date, total: int) -> None:
        """Make the usage of this month ``total``; later months begin at nothing as ever."""
        self.elsewhere[day.year, day.month] += total - self.usage(day)

    def delivery(self, kind: Kind, day: date, today: date, minimum: int) -> dict[str, Any]:
        """The answer about one day; below ``minimum`` messages LINE hides the number."""
        if day < FIRST_DAY:
            return {"status": "out_of_service"}
        if day >= today:
            return {"status": "unready"}
        count = self.sent[kind][day]
        if count < minimum:
            return {"status": "unavailable_for_privacy"}
        return {"status": "ready", "success": count}
