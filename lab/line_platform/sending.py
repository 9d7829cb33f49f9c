"""What a test may ask about a webhook to send, and the request that comes of it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from line_platform import signature
from line_platform.checks import FLAG, LIST, OPTIONAL_TEXT, TEXT, Is, check
from line_platform.errors import ControlError
from line_platform.events import (
    LAYOUTS,
    Event,
    Layout,
    build_event,
    envelope,
    parse_spec,
    redelivered,
    serialise,
)
from line_platform.platform import Channel, Platform
from line_platform.signature import SIGNINGS, Signing

USER_AGENT = "LineBotWebhook/2.0"
# LINE gives up on a bot server after two seconds.
DEADLINE_SECONDS = 2.0
MAX_DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Sending:
    """A webhook to send.

    Body: ``events`` are taken as they are, ``make`` are specifications of events to build (see
    ``events.EventSpec``); without either the events are empty, as LINE's own test sends them.
    ``raw`` (base64) replaces the whole body and is signed as it is. ``redelivery`` marks the events
    as delivered again. ``signature_value`` replaces the signature by any text.
    """

    channel: str | None = None
    endpoint: str | None = None
    events: list[Event] = field(default_factory=list)
    make: list[dict[str, Any]] = field(default_factory=list)
    raw: str | None = None
    layout: Layout = "compact"
    signature: Signing = "valid"
    signature_header: str = "x-line-signature"
    signature_value: str | None = None
    redelivery: bool = False
    deadline_seconds: float = DEADLINE_SECONDS


_FIELDS: Mapping[str, Is] = {
    "channel": OPTIONAL_TEXT,
    "endpoint": OPTIONAL_TEXT,
    "events": LIST,
    "make": LIST,
    "raw": OPTIONAL_TEXT,
    "layout": Is((str,), among=LAYOUTS),
    "signature": Is((str,), among=SIGNINGS),
    "signature_header": TEXT,
    "signature_value": OPTIONAL_TEXT,
    "redelivery": FLAG,
    "deadline_seconds": Is((int, float), least=0.01, most=MAX_DEADLINE_SECONDS),
}


@dataclass(frozen=True)
class Parcel:
    """A webhook request ready to go out."""

    endpoint: str
    body: bytes
    headers: dict[str, str]
    events: list[Event]
    raw: bool
    deadline_seconds: float


def parse_sending(raw: Mapping[str, Any]) -> Sending:
    """Read what a test asked for; raises ControlError for what cannot be."""
    check("webhook", raw, _FIELDS)
    sending = Sending(**raw)
    if sending.signature_header.lower() != "x-line-signature":
        raise ControlError("signature_header may differ from x-line-signature by case only")
    return sending


def probe(channel: Channel, endpoint: str) -> Parcel:
    """The webhook without events by which LINE tests a URL."""
    body = _body(channel, [], "compact")
    headers = _headers(channel, Sending(), body)
    return Parcel(endpoint, body, headers, [], raw=False, deadline_seconds=DEADLINE_SECONDS)


def compose(platform: Platform, sending: Sending) -> Parcel:
    """Make the request; what its events imply (users, reply tokens) exists from then on.

    Raises ControlError when the channel has no webhook URL or its webhook is switched off.
    """
    channel = platform.channel(sending.channel)
    if not channel.webhook.active:
        raise ControlError(f"the webhook of channel {channel.id} is switched off: LINE would send nothing")
    endpoint = sending.endpoint or channel.webhook.current(platform.now())
    if endpoint is None:
        raise ControlError(f"channel {channel.id} has no webhook URL: set one or name an endpoint")
    now = round(platform.now() * 1000)
    events = [*sending.events, *(build_event(parse_spec(spec), now) for spec in sending.make)]
    if sending.redelivery:
        events = [redelivered(event) for event in events]
    platform.admit(channel, events)
    body = _raw(sending.raw) if sending.raw is not None else _body(channel, events, sending.layout)
    return Parcel(
        endpoint,
        body,
        _headers(channel, sending, body),
        events,
        raw=sending.raw is not None,
        deadline_seconds=sending.deadline_seconds,
    )


def again(channel: Channel, parcel: Parcel) -> Parcel:
    """The same webhook as LINE delivers it again, newly signed; raw bodies stay what they are."""
    if parcel.raw:
        return parcel
    events = [redelivered(event) for event in parcel.events]
    body = _body(channel, events, "compact")
    headers = _headers(channel, Sending(), body)
    return replace(parcel, body=body, headers=headers, events=events)


def _body(channel: Channel, events: list[Event], layout: Layout) -> bytes:
    return serialise(envelope(channel.bot["userId"], events), layout)


def _headers(channel: Channel, sending: Sending, body: bytes) -> dict[str, str]:
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": USER_AGENT}
    value = sending.signature_value
    if value is None:
        value = signature.present(sending.signature, channel.secret, body)
    return headers if value is None else headers | {sending.signature_header: value}


def _raw(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ControlError("raw must be base64") from None
