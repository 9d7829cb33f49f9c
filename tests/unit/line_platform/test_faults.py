"""Which requests a fault hits, how often, and which orders are refused."""

from __future__ import annotations

from typing import Any

import pytest
from line_platform.errors import ControlError
from line_platform.faults import FaultBook

QUOTA = ("GET", "api.line.me", "/v2/bot/message/quota", "one")


@pytest.mark.parametrize(
    ("fields", "hit"),
    [
        ({}, True),
        ({"method": "get"}, True),
        ({"method": "POST"}, False),
        ({"path": "/v2/bot/message/quota"}, True),
        ({"path": "/v2/bot/message/quota/*"}, False),
        ({"path": "/v2/*"}, True),
        ({"host": "api-data.line.me"}, False),
        ({"host": "api*.line.me"}, True),
        ({"token": "one"}, True),
        ({"token": "other"}, False),
        ({"method": "GET", "path": "*/quota", "host": "*", "token": None}, True),
    ],
)
def test_matching(fields: dict[str, Any], hit: bool) -> None:
    book = FaultBook()
    book.add({"status": 500, **fields})
    assert (book.take(*QUOTA) is not None) is hit


def test_times_run_out_and_the_next_takes_over() -> None:
    book = FaultBook()
    first, second = book.add({"status": 500, "times": 2}), book.add({"status": 503})
    assert [fault.number for _ in range(4) if (fault := book.take(*QUOTA))] == [
        first.number,
        first.number,
        second.number,
        second.number,
    ]
    assert [fault["hits"] for fault in book.listing()] == [2, 2]


def test_removing() -> None:
    book = FaultBook()
    fault = book.add({"drop": True})
    assert book.remove(fault.number)
    assert not book.remove(fault.number)
    assert book.take(*QUOTA) is None


def test_a_token_is_not_shown() -> None:
    book = FaultBook()
    book.add({"token": "a-test-token", "status": 401})
    assert "a-test-token" not in str(book.listing())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"statsu": 500}, "unknown field 'statsu'"),
        ({"status": "500"}, "status must not be '500'"),
        ({"status": True}, "status must not be True"),
        ({"status": 100}, "at least 200"),
        ({"times": 0}, "times must be at least 1"),
        ({"delay_seconds": -1}, "delay_seconds must be at least 0"),
        ({"drop": 1}, "drop must not be 1"),
        ({"drop": 1, "status": 1}, "drop must not be 1; status must be at least 200, not 1"),
    ],
)
def test_bad_orders(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlError) as caught:
        FaultBook().add(fields)
    assert message in str(caught.value)
