"""Webhook events: identifiers, kinds, sources, redelivery."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_platform import identifiers
from line_platform.errors import ControlError
from line_platform.events import build_event, envelope, parse_spec, redelivered, serialise

NOW = 1_767_225_600_123


@pytest.mark.parametrize(
    ("kind", "kind_of_event", "own"),
    [
        ("image", "message", {"message", "replyToken"}),
        ("text", "message", {"message", "replyToken"}),
        ("follow", "follow", {"follow", "replyToken"}),
        ("unfollow", "unfollow", set()),
        ("join", "join", {"replyToken"}),
        ("leave", "leave", set()),
    ],
)
def test_shape(kind: str, kind_of_event: str, own: set[str]) -> None:
    event = build_event(parse_spec({"kind": kind}), NOW)
    common = {"type", "mode", "timestamp", "source", "webhookEventId", "deliveryContext"}
    assert set(event) == common | own
    assert event["type"] == kind_of_event
    assert event["mode"] == "active"
    assert event["timestamp"] == NOW
    assert event["deliveryContext"] == {"isRedelivery": False}


def test_image() -> None:
    together = {"id": "set", "index": 1, "total": 2}
    message = build_event(parse_spec({"kind": "image", "message": "42", "image_set": together}), NOW)[
        "message"
    ]
    assert message.pop("quoteToken")
    assert message == {"type": "image", "id": "42", "contentProvider": {"type": "line"}, "imageSet": together}


USER, GROUP = identifiers.user_id(), identifiers.group_id()


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ({"kind": "text", "user": USER}, {"type": "user", "userId": USER}),
        ({"kind": "text", "user": USER, "group": GROUP}, {"type": "group", "groupId": GROUP, "userId": USER}),
        ({"kind": "text", "group": GROUP}, {"type": "group", "groupId": GROUP}),
        ({"kind": "join", "user": USER, "group": GROUP}, {"type": "group", "groupId": GROUP}),
    ],
)
def test_source(spec: dict[str, Any], source: dict[str, str]) -> None:
    assert build_event(parse_spec(spec), NOW)["source"] == source


def test_redelivery_keeps_everything_else() -> None:
    event = build_event(parse_spec({"kind": "image"}), NOW)
    second = redelivered(event)
    assert second.pop("deliveryContext") == {"isRedelivery": True}
    assert event.pop("deliveryContext") == {"isRedelivery": False}
    assert second == event


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "needs a kind"),
        ({"kind": "photo"}, "kind must be one of image, text"),
        ({"kind": "image", "usr": "x"}, "unknown field 'usr'"),
        ({"kind": "text", "text": 1}, "text must not be 1"),
    ],
)
def test_bad_specs(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlError, match=message):
        parse_spec(raw)


def test_compact_body_is_plain_utf8() -> None:
    assert (
        serialise(envelope("U", [{"text": "照片"}]))
        == '{"destination":"U","events":[{"text":"照片"}]}'.encode()
    )


@given(st.integers(0, 2**48 - 2))
def test_event_ids_are_ulids_that_sort_by_time(milliseconds: int) -> None:
    earlier, later = identifiers.event_id(milliseconds), identifiers.event_id(milliseconds + 1)
    assert len(earlier) == 26
    assert set(earlier) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
    assert earlier[:10] < later[:10]


def test_identifier_shapes() -> None:
    assert identifiers.USER_ID.fullmatch(identifiers.user_id())
    assert identifiers.RECIPIENT_ID.fullmatch(identifiers.group_id())
    assert identifiers.RETRY_KEY.fullmatch(identifiers.request_id())
    assert len(identifiers.message_id()) == 18
