"""What may be set about a channel, a webhook order and the command line, and how mistakes are told."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from line_platform import sending, settings, signature
from line_platform.__main__ import parse_options
from line_platform.api import Call
from line_platform.errors import ControlError
from line_platform.journal import Journal
from line_platform.platform import Channel, Platform, new_channel

NOW = 1_777_950_000.0


@pytest.fixture
def platform() -> Platform:
    return Platform(lambda: NOW)


@pytest.fixture
def channel(platform: Platform) -> Channel:
    return platform.channels.setdefault("1234567890", new_channel("1234567890"))


def test_everything_can_be_set(platform: Platform, channel: Channel) -> None:
    fields = {
        "secret": "s",
        "bot": {"displayName": "Archive"},
        "quota": {"type": "limited", "value": 200},
        "usage": 150,
        "delivered": {"reply": {"20260504": 40}},
        "endpoint": "https://line.example/webhook/line",
        "active": False,
        "settle_seconds": 5,
        "redelivery": {"enabled": True},
        "reply_token_seconds": 30,
        "privacy_minimum": 0,
        "denied": ["/v2/bot/info"],
    }
    settings.apply(platform, channel, fields)
    shown = settings.describe(platform, channel)
    assert shown.pop("bot")["displayName"] == "Archive"
    assert shown.pop("redelivery") == {"enabled": True, "attempts": 3, "interval_seconds": 1.0}
    expected = {name: fields[name] for name in fields if name not in ("bot", "redelivery", "delivered")}
    assert shown == expected | {"id": "1234567890"}
    assert sum(channel.ledger.sent["reply"].values()) == 40


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"secert": "s"}, "unknown field 'secert'"),
        ({"secret": ""}, "secret: must be a text"),
        ({"quota": {"type": "some"}}, "quota: must be"),
        ({"quota": {"type": "limited"}}, "quota: must be a whole number from 0, not None"),
        ({"usage": -1}, "usage: must be a whole number"),
        ({"usage": True}, "usage: must be a whole number"),
        ({"delivered": 5}, "delivered: must be"),
        ({"bot": 5}, "bot: must be"),
        ({"redelivery": 5}, "redelivery: must be"),
        ({"delivered": {"push": 5}}, "delivered: must be"),
        ({"delivered": {"narrowcast": {}}}, "delivered: unknown kind narrowcast"),
        ({"delivered": {"push": {"2026-05-04": 1}}}, "delivered: '2026-05-04' is not a date"),
        ({"active": 1}, "active: must be true or false"),
        ({"bot": {"userId": "me"}}, "bot: userId must be U and 32"),
        ({"bot": {"nick": "x"}}, "bot: unknown nick"),
        ({"redelivery": {"attempts": 11}}, "redelivery: attempts must be from 1 to 10"),
        ({"denied": "/v2/*"}, "denied: must be a list"),
        ({"settle_seconds": "5"}, "settle_seconds: must be seconds"),
    ],
)
def test_mistakes_are_told_and_nothing_is_set(
    platform: Platform, channel: Channel, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ControlError) as caught:
        settings.apply(
            platform, channel, {"quota": {"type": "limited", "value": 1}, "active": False, **fields}
        )
    assert message in str(caught.value)
    assert channel.webhook.active


# Webhook orders

URL = {"endpoint": "https://line.example/"}


def test_an_order_without_events_is_empty(platform: Platform, channel: Channel) -> None:
    parcel = sending.compose(platform, sending.parse_sending(URL))
    assert parcel.body == f'{{"destination":"{channel.bot["userId"]}","events":[]}}'.encode()
    assert parcel.headers["x-line-signature"] == signature.sign(channel.secret, parcel.body)
    assert parcel.deadline_seconds == 2.0


@pytest.mark.parametrize("header", ["x-line-signature", "X-Line-Signature", "X-LINE-SIGNATURE"])
def test_header_case(platform: Platform, channel: Channel, header: str) -> None:
    order = sending.parse_sending({**URL, "signature_header": header})
    assert header in sending.compose(platform, order).headers


@pytest.mark.parametrize(
    ("fields", "valid"),
    [
        ({}, True),
        ({"signature": "wrong"}, False),
        ({"signature": "other-secret"}, False),
        ({"signature_value": "not base64"}, False),
        ({"layout": "odd"}, True),
        ({"raw": base64.b64encode(b' { "events" : [ ] } ').decode()}, True),
    ],
)
def test_signatures(platform: Platform, channel: Channel, fields: dict[str, Any], valid: bool) -> None:
    parcel = sending.compose(platform, sending.parse_sending({**URL, "make": [{"kind": "text"}], **fields}))
    assert signature.verify(channel.secret, parcel.body, parcel.headers["x-line-signature"]) is valid


def test_a_signature_can_be_missing(platform: Platform, channel: Channel) -> None:
    parcel = sending.compose(platform, sending.parse_sending({**URL, "signature": "missing"}))
    assert "x-line-signature" not in parcel.headers


def test_sent_events_bring_people_and_reply_tokens(platform: Platform, channel: Channel) -> None:
    parcel = sending.compose(
        platform, sending.parse_sending({**URL, "make": [{"kind": "image", "user": "U1", "group": "C1"}]})
    )
    assert "U1" in platform.users
    assert platform.groups["C1"].members == ["U1"]
    assert parcel.events[0]["replyToken"] in platform.reply_tokens


def test_delivering_again_signs_again(platform: Platform, channel: Channel) -> None:
    order = {**URL, "make": [{"kind": "image"}], "signature": "wrong", "signature_header": "X-Line-Signature"}
    first = sending.compose(platform, sending.parse_sending(order))
    second = sending.again(channel, first)
    assert second.events[0]["webhookEventId"] == first.events[0]["webhookEventId"]
    assert second.events[0]["deliveryContext"] == {"isRedelivery": True}
    assert signature.verify(channel.secret, second.body, second.headers["x-line-signature"])
    assert len(second.headers) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"signature": "bad"}, "signature must be one of valid, wrong, missing, other-secret"),
        ({"layout": "wide"}, "layout must be one of compact, odd"),
        ({"signature_header": "X-Hub-Signature"}, "by case only"),
        ({"deadline_seconds": 0}, "deadline_seconds must be at least 0.01"),
        ({"deadline_seconds": 61}, "deadline_seconds must be at most 60"),
        ({"event": []}, "unknown field 'event'"),
        ({"raw": "***"}, "raw must be base64"),
        ({"make": [{}]}, "needs a kind"),
        ({"channel": "1"}, "no channel '1'"),
        ({"endpoint": None}, "has no webhook URL"),
    ],
)
def test_bad_orders(platform: Platform, channel: Channel, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlError) as caught:
        sending.compose(platform, sending.parse_sending({**URL, **fields}))
    assert message in str(caught.value)


def test_nothing_is_sent_while_the_webhook_is_off(platform: Platform, channel: Channel) -> None:
    channel.webhook.active = False
    with pytest.raises(ControlError, match="switched off"):
        sending.compose(platform, sending.parse_sending(URL))


def test_with_two_channels_one_must_be_named(platform: Platform, channel: Channel) -> None:
    platform.channels["2"] = new_channel("2")
    with pytest.raises(ControlError, match="name a channel: there are 1234567890, 2"):
        sending.compose(platform, sending.parse_sending(URL))


# The journal


def test_the_journal_keeps_no_secret(tmp_path: Path) -> None:
    form = "client_id=7&client_secret=hidden-one&access_token=hidden-two"
    call = Call(
        "POST",
        "api.line.me",
        "/v2/oauth/verify",
        {"access_token": "hidden-three"},
        {"authorization": "Bearer hidden-four", "content-type": "application/x-www-form-urlencoded"},
        form.encode(),
    )
    journal = Journal(tmp_path / "requests.jsonl")
    journal.finish(journal.begin(NOW, call), 200)
    journal.close()
    written = (tmp_path / "requests.jsonl").read_text()
    assert "hidden" not in str(journal.entries) + written
    assert journal.entries[0]["body"]["client_id"] == "7"
    assert journal.entries[0]["token"]


def test_the_journal_can_be_searched() -> None:
    journal = Journal()
    for method, path in (("GET", "/a"), ("POST", "/a/b"), ("GET", "/c")):
        journal.begin(NOW, Call(method, "api.line.me", path))
    assert [entry["number"] for entry in journal.select(path="/a*")] == [1, 2]
    assert [entry["number"] for entry in journal.select(method="GET", since=1)] == [3]


# The command line


def test_options() -> None:
    options = parse_options(
        [
            "--state-dir",
            "state",
            "--listen",
            "[::1]:8443",
            "--resolve",
            "a.example=192.0.2.10",
            "--resolve",
            "b.example=192.0.2.11",
        ]
    )
    assert (options.host, options.port) == ("::1", 8443)
    assert options.control_socket == Path("state/control.sock")
    assert options.names == {"a.example": "192.0.2.10", "b.example": "192.0.2.11"}


@pytest.mark.parametrize(
    "arguments",
    ["--listen 443", "--listen 127.0.0.1:x", "--listen :443", "--listen 127.0.0.1:1 --resolve a"],
)
def test_bad_options(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_options(["--state-dir", "state", *arguments.split()])
    assert caught.value.code == 2
    assert "is not" in capsys.readouterr().err
