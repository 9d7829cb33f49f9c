"""Counting messages across days and months of UTC+9."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_platform.quota import KINDS, Kind, Ledger, Quota, local_day, parse_day


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        ("2026-01-31T14:59:59+00:00", date(2026, 1, 31)),
        ("2026-01-31T15:00:00+00:00", date(2026, 2, 1)),
        ("2026-12-31T15:00:00+00:00", date(2027, 1, 1)),
        ("2028-02-28T15:00:00+00:00", date(2028, 2, 29)),
    ],
)
def test_days_are_those_of_utc_plus_nine(moment: str, day: date) -> None:
    assert local_day(datetime.fromisoformat(moment).astimezone(UTC).timestamp()) == day


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-31",
        "202601310",
        "2026013",
        "20260132",
        "\uff12\uff10\uff12\uff16\uff10\uff11\uff13\uff11",
        "yyyyMMdd",
    ],
)
def test_bad_dates(text: str) -> None:
    with pytest.raises(ValueError):
        parse_day(text)


@given(st.dates())
def test_dates_round_trip(day: date) -> None:
    assert parse_day(f"{day.year:04}{day.month:02}{day.day:02}") == day


@pytest.mark.parametrize(
    ("limit", "used", "more", "allowed"),
    [(None, 10**9, 1, True), (0, 0, 0, True), (0, 0, 1, False), (200, 199, 1, True), (200, 199, 2, False)],
)
def test_limit(limit: int | None, used: int, more: int, allowed: bool) -> None:
    assert Quota(limit).allows(used, more) is allowed


def test_quota_bodies() -> None:
    assert Quota().body() == {"type": "none"}
    assert Quota(0).body() == {"type": "limited", "value": 0}


@pytest.mark.parametrize(("kind", "billed"), [("reply", 0), ("push", 3), ("multicast", 3), ("broadcast", 3)])
def test_what_counts(kind: Kind, billed: int) -> None:
    ledger = Ledger()
    ledger.record(kind, date(2026, 1, 31), 3)
    assert ledger.usage(date(2026, 1, 1)) == billed
    assert ledger.usage(date(2026, 2, 1)) == 0
    assert ledger.usage(date(2025, 1, 31)) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.dates(date(2026, 1, 1), date(2026, 3, 31)), st.integers(0, 9))
    ),
    st.integers(0, 1000),
    st.dates(date(2026, 1, 1), date(2026, 3, 31)),
)
def test_usage_can_be_set_whatever_was_sent(
    sent: list[tuple[Kind, date, int]], total: int, today: date
) -> None:
    ledger = Ledger()
    for kind, day, count in sent:
        ledger.record(kind, day, count)
    others = {month: ledger.usage(date(2026, month, 1)) for month in (1, 2, 3) if month != today.month}
    ledger.set_usage(today, total)
    assert ledger.usage(today) == total
    assert {month: ledger.usage(date(2026, month, 1)) for month in others} == others


@pytest.mark.parametrize(
    ("day", "count", "answer"),
    [
        (date(2018, 3, 30), 50, {"status": "out_of_service"}),
        (date(2018, 3, 31), 50, {"status": "ready", "success": 50}),
        (date(2026, 5, 4), 19, {"status": "unavailable_for_privacy"}),
        (date(2026, 5, 4), 20, {"status": "ready", "success": 20}),
        (date(2026, 5, 5), 50, {"status": "unready"}),
        (date(2026, 5, 6), 50, {"status": "unready"}),
    ],
)
def test_delivery(day: date, count: int, answer: dict[str, Any]) -> None:
    ledger = Ledger()
    ledger.record("push", day, count)
    assert ledger.delivery("push", day, today=date(2026, 5, 5), minimum=20) == answer
