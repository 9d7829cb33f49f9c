"""Webhook events and the request body that carries them.

Shapes: github.com/line/line-openapi, webhook.yml.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from line_platform import identifiers
from line_platform.checks import FLAG, NONE, OPTIONAL_TEXT, TEXT, Is, check
from line_platform.errors import ControlError

Event = dict[str, Any]
Layout = Literal["compact", "odd"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


@dataclass(frozen=True)
class EventSpec:
    """An event to make: ``kind`` and whatever of it matters to the test; the rest is made up.

    ``user`` and ``group`` are the source: without a group the user speaks to the bot alone.
    """

    kind: str
    user: str | None = None
    group: str | None = None
    message: str | None = None
    text: str = "test"
    reply_token: str | None = None
    event_id: str | None = None
    unblocked: bool = False
    image_set: dict[str, Any] | None = None


def parse_spec(raw: Mapping[str, Any]) -> EventSpec:
    """Read what a test asked for; raises ControlError for an unknown kind or field."""
    check("event", raw, _FIELDS)
    if "kind" not in raw:
        raise ControlError(f"an event needs a kind, one of {', '.join(_BUILDERS)}")
    return EventSpec(**raw)


def build_event(spec: EventSpec, milliseconds: int) -> Event:
    """Make the event; ``milliseconds`` since the epoch is when it happened."""
    return {
        "type": "message" if spec.kind in ("image", "text") else spec.kind,
        "mode": "active",
        "timestamp": milliseconds,
        "source": _source(spec),
        "webhookEventId": spec.event_id or identifiers.event_id(milliseconds),
        "deliveryContext": {"isRedelivery": False},
        **_BUILDERS[spec.kind](spec),
    }


def redelivered(event: Event) -> Event:
    """The same event as it comes when LINE delivers it again: same ID, same time."""
    return event | {"deliveryContext": {"isRedelivery": True}}


def envelope(destination: str, events: Sequence[Event]) -> dict[str, Any]:
    """The body of a webhook request; ``destination`` is the bot's user ID."""
    return {"destination": destination, "events": list(events)}


def serialise(body: Mapping[str, Any], layout: Layout = "compact") -> bytes:
    """Write the body as bytes.

    ``odd`` is the same JSON written in a way that no serialiser would give back (line breaks, blanks
    before commas, escaped and plain letters, another order), so that a receiver which checks the
    signature over re-serialised JSON instead of the raw body is found out.
    """
    if layout == "compact":
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    text = json.dumps(_reversed(body), ensure_ascii=True, indent="\t", separators=(" ,", " :  "))
    return f"\r\n {text}\t\n".encode()


def _reversed(value: Any) -> Any:
    """The same JSON value with the order of every object's keys reversed."""
    if isinstance(value, Mapping):
        return {key: _reversed(value[key]) for key in reversed(list(value))}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


def _source(spec: EventSpec) -> dict[str, Any]:
    # A join event tells of the group only: nobody in particular has spoken.
    if spec.group is not None or spec.kind in ("join", "leave"):
        user = {"userId": spec.user} if spec.user and spec.kind not in ("join", "leave") else {}
        return {"type": "group", "groupId": spec.group or identifiers.group_id(), **user}
    return {"type": "user", "userId": spec.user or identifiers.user_id()}


def _reply(spec: EventSpec) -> dict[str, Any]:
    return {"replyToken": spec.reply_token or identifiers.reply_token()}


def _message(spec: EventSpec, content: dict[str, Any]) -> dict[str, Any]:
    message = {
        "id": spec.message or identifiers.message_id(),
        "quoteToken": identifiers.quote_token(),
        **content,
    }
    return {"message": message, **_reply(spec)}


def _image(spec: EventSpec) -> dict[str, Any]:
    together = {"imageSet": spec.image_set} if spec.image_set else {}
    return _message(spec, {"type": "image", "contentProvider": {"type": "line"}, **together})


_BUILDERS: Mapping[str, Callable[[EventSpec], dict[str, Any]]] = {
    "image": _image,
    "text": lambda spec: _message(spec, {"type": "text", "text": spec.text}),
    "follow": lambda spec: {**_reply(spec), "follow": {"isUnblocked": spec.unblocked}},
    "unfollow": lambda spec: {},
    "join": _reply,
    "leave": lambda spec: {},
}

_FIELDS: Mapping[str, Is] = {
    "kind": Is((str,), among=list(_BUILDERS)),
    "user": OPTIONAL_TEXT,
    "group": OPTIONAL_TEXT,
    "message": OPTIONAL_TEXT,
    "text": TEXT,
    "reply_token": OPTIONAL_TEXT,
    "event_id": OPTIONAL_TEXT,
    "unblocked": FLAG,
    "image_set": Is((dict, NONE)),
}
