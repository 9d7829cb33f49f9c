"""The stand-in before an independent witness: LINE's own Python SDK.

The SDK runs unchanged against ``https://api.line.me`` and ``https://api-data.line.me``: only the TCP
connection is led to the stand-in on loopback, and the lab's authority takes the place of the public
ones. What the stand-in says must therefore deserialise into the SDK's models, its refusals must
raise the SDK's exceptions, and its webhooks must pass the SDK's signature check and parser.
"""

from __future__ import annotations

import json
import queue
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import Any

import pytest
import urllib3.util.connection
from line_platform.background import serve
from line_platform.client import Control
from line_platform.errors import ControlError
from line_platform.server import Options
from linebot.v3.exceptions import InvalidSignatureError
from linebot.v3.messaging import (
    ApiClient,
    ApiException,
    Configuration,
    MessagingApi,
    MessagingApiBlob,
    PushMessageRequest,
    ReplyMessageRequest,
    SetWebhookEndpointRequest,
    TextMessage,
)
from linebot.v3.messaging import TestWebhookEndpointRequest as ProbeRequest  # pytest collects Test*
from linebot.v3.messaging.exceptions import (
    ForbiddenException,
    NotFoundException,
    ServiceException,
    UnauthorizedException,
)
from linebot.v3.oauth import ApiClient as OAuthClient
from linebot.v3.oauth import ApiException as OAuthException
from linebot.v3.oauth import ChannelAccessToken
from linebot.v3.oauth import Configuration as OAuthConfiguration
from linebot.v3.webhook import WebhookParser
from linebot.v3.webhooks import (
    FollowEvent,
    GroupSource,
    ImageMessageContent,
    JoinEvent,
    MessageEvent,
    TextMessageContent,
    UserSource,
)
from memoryark_lab.authority import Authority, ensure_authority

CHANNEL = "1234567890"
RECEIVER = "line.example"
BUDGET = {"_request_timeout": 10}


@dataclass
class Received:
    """A request that a receiver got."""

    path: str
    headers: dict[str, str]
    raw_names: list[str]
    body: bytes


@dataclass
class Receiver:
    """A bot server that does nothing but remember and answer as told."""

    port: int
    status: int = 200
    delay: float = 0.0
    requests: queue.Queue[Received] = field(default_factory=queue.Queue)

    @property
    def url(self) -> str:
        return f"https://{RECEIVER}:{self.port}/webhook/line"

    def next(self) -> Received:
        return self.requests.get(timeout=10)


@contextmanager
def receiving(authority: Authority, name: str = RECEIVER) -> Iterator[Receiver]:
    """Run a receiver over TLS on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            names = list(self.headers.keys())
            lowered = {key.lower(): value for key, value in self.headers.items()}
            bot_server.requests.put(Received(self.path, lowered, names, body))
            time.sleep(bot_server.delay)
            self.send_response(bot_server.status)
            if 300 <= bot_server.status < 400:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(b"noted")

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A sender that hangs up is part of the test."""

    server = Server(("127.0.0.1", 0), Handler)
    pair = authority.ensure_certificate(name, [name])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    bot_server = Receiver(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield bot_server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return ensure_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stand_in(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    pair = authority.ensure_certificate("line", ["api.line.me", "api-data.line.me"])
    options = Options(
        state=tmp_path_factory.mktemp("line"),
        certificate=pair.certificate,
        key=pair.key,
        ca=authority.certificate,
        names={RECEIVER: "127.0.0.1", "wrong.example": "127.0.0.1"},
    )
    with serve(options) as control:
        yield control


@pytest.fixture
def control(stand_in: Control, monkeypatch: pytest.MonkeyPatch) -> Control:
    """A stand-in that remembers nothing yet, reached under LINE's own names."""
    stand_in.reset()
    address, _, port = stand_in.status()["listening"].rpartition(":")
    real = urllib3.util.connection.create_connection

    def connect(target: tuple[str, int], *rest: Any, **named: Any) -> socket:
        assert target in {("api.line.me", 443), ("api-data.line.me", 443)}, target
        return real((address, int(port)), *rest, **named)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", connect)
    return stand_in


@pytest.fixture(scope="module")
def shared_receiver(authority: Authority) -> Iterator[Receiver]:
    with receiving(authority) as receiver:
        yield receiver


@pytest.fixture
def receiver(shared_receiver: Receiver) -> Receiver:
    shared_receiver.status, shared_receiver.delay = 200, 0.0
    while not shared_receiver.requests.empty():
        shared_receiver.requests.get_nowait()
    return shared_receiver


@dataclass
class Bot:
    """The SDK's clients with a good token of one channel."""

    control: Control
    authority: Authority
    channel: dict[str, Any]
    token: str

    @property
    def configuration(self) -> Configuration:
        return Configuration(access_token=self.token, ssl_ca_cert=str(self.authority.certificate))

    @property
    def api(self) -> MessagingApi:
        return MessagingApi(ApiClient(self.configuration))

    @property
    def data(self) -> MessagingApiBlob:
        return MessagingApiBlob(ApiClient(self.configuration))

    @property
    def oauth(self) -> ChannelAccessToken:
        configuration = OAuthConfiguration(ssl_ca_cert=str(self.authority.certificate))
        return ChannelAccessToken(OAuthClient(configuration))

    @property
    def parser(self) -> WebhookParser:
        return WebhookParser(self.channel["secret"])


@pytest.fixture
def bot(control: Control, authority: Authority) -> Bot:
    channel = control.set_channel(CHANNEL)
    return Bot(control, authority, channel, control.issue_token(CHANNEL))


def refusal(caught: pytest.ExceptionInfo[Any]) -> tuple[int, str]:
    """Status and message of what the SDK raised."""
    return caught.value.status, json.loads(caught.value.body)["message"]


def day(days_ago: int) -> str:
    """A date as the statistics want it, in UTC+9."""
    return f"{datetime.now(UTC) + timedelta(hours=9) - timedelta(days=days_ago):%Y%m%d}"


# Reading


def test_bot_info(bot: Bot) -> None:
    bot.control.set_channel(CHANNEL, bot={"displayName": "照片檔案", "chatMode": "chat"})
    info = bot.api.get_bot_info(**BUDGET)
    assert (info.display_name, info.chat_mode) == ("照片檔案", "chat")
    assert (info.user_id, info.basic_id) == (bot.channel["bot"]["userId"], bot.channel["bot"]["basicId"])


def test_quota_without_a_limit(bot: Bot) -> None:
    quota = bot.api.get_message_quota(**BUDGET)
    assert (quota.type, quota.value) == ("none", None)


def test_quota_with_a_limit(bot: Bot) -> None:
    bot.control.set_channel(CHANNEL, quota={"type": "limited", "value": 200}, usage=150)
    assert (bot.api.get_message_quota(**BUDGET).type, bot.api.get_message_quota(**BUDGET).value) == (
        "limited",
        200,
    )
    assert bot.api.get_message_quota_consumption(**BUDGET).total_usage == 150


@pytest.mark.parametrize(
    ("count", "days_ago", "status", "success"),
    [
        (57, 1, "ready", 57),
        (20, 1, "ready", 20),
        (19, 1, "unavailable_for_privacy", None),
        (57, 0, "unready", None),
    ],
)
@pytest.mark.parametrize("kind", ["reply", "push", "multicast", "broadcast"])
def test_deliveries(
    bot: Bot, *, kind: str, count: int, days_ago: int, status: str, success: int | None
) -> None:
    bot.control.set_channel(CHANNEL, delivered={kind: {day(days_ago): count}})
    method = getattr(bot.api, f"get_number_of_sent_{kind}_messages")
    answer = method(day(days_ago), **BUDGET)
    assert (answer.status, answer.success) == (status, success)


def test_deliveries_before_line_counted(bot: Bot) -> None:
    assert bot.api.get_number_of_sent_push_messages("20180330", **BUDGET).status == "out_of_service"


def test_content(bot: Bot) -> None:
    photo = secrets.token_bytes(300_000)
    message = bot.control.add_content(photo)
    assert bytes(bot.data.get_message_content(message, **BUDGET)) == photo
    bot.control.delete_content(message)
    with pytest.raises(ApiException) as caught:
        bot.data.get_message_content(message, **BUDGET)
    assert caught.value.status == 410


def test_people(bot: Bot) -> None:
    user = bot.control.add_user(
        displayName="王小明", pictureUrl="https://example.net/p.jpg", language="zh-TW"
    )
    group = bot.control.add_group(name="青年團契", members=[user])
    profile = bot.api.get_profile(user, **BUDGET)
    assert (profile.user_id, profile.display_name, profile.language) == (user, "王小明", "zh-TW")
    summary = bot.api.get_group_summary(group, **BUDGET)
    assert (summary.group_id, summary.group_name) == (group, "青年團契")
    member = bot.api.get_group_member_profile(group, user, **BUDGET)
    assert (member.user_id, member.display_name) == (user, "王小明")
    bot.control.add_user(user, blocked=True)
    with pytest.raises(NotFoundException):
        bot.api.get_profile(user, **BUDGET)


# Refusals


@pytest.mark.parametrize(
    ("case", "kind", "status", "text"),
    [
        ("unknown token", UnauthorizedException, 401, "Authentication failed due to the following reason"),
        ("expired token", UnauthorizedException, 401, "Authentication failed due to the following reason"),
        ("no permission", ForbiddenException, 403, "Access to this API is not available for your account"),
        ("no webhook", NotFoundException, 404, "Webhook endpoint not found"),
    ],
)
def test_refusals(bot: Bot, case: str, kind: type[ApiException], status: int, text: str) -> None:
    if case == "unknown token":
        bot.token = secrets.token_hex(16)
    elif case == "expired token":
        bot.control.expire_token(bot.token)
    elif case == "no permission":
        bot.control.set_channel(CHANNEL, denied=["/v2/bot/channel/*"])
    with pytest.raises(kind) as caught:
        bot.api.get_webhook_endpoint(**BUDGET)
    assert refusal(caught)[0] == status
    assert refusal(caught)[1].startswith(text)
    assert uuid.UUID(caught.value.headers["x-line-request-id"])


def test_every_answer_has_a_request_id(bot: Bot) -> None:
    answer = bot.api.get_bot_info_with_http_info(**BUDGET)
    assert uuid.UUID(answer.headers["x-line-request-id"])


# Sending


def push(bot: Bot, user: str, key: str | None = None, count: int = 1) -> Any:
    messages = [TextMessage(text=f"照片 {number} 已存檔") for number in range(count)]
    request = PushMessageRequest(to=user, messages=messages)
    return bot.api.push_message(request, x_line_retry_key=key, **BUDGET)


def test_push_uses_up_the_quota(bot: Bot) -> None:
    bot.control.set_channel(CHANNEL, quota={"type": "limited", "value": 2})
    user = bot.control.add_user()
    sent = push(bot, user, count=5).sent_messages
    assert len(sent) == 5
    assert all(message.id.isdigit() and message.quote_token for message in sent)
    push(bot, user)
    assert bot.api.get_message_quota_consumption(**BUDGET).total_usage == 2
    with pytest.raises(ApiException) as caught:
        push(bot, user)
    assert refusal(caught) == (429, "You have reached your monthly limit.")


def test_quota_comes_back_with_the_month(bot: Bot) -> None:
    bot.control.set_clock(now=datetime(2026, 1, 31, 14, 59, tzinfo=UTC).timestamp())
    bot.control.set_channel(CHANNEL, quota={"type": "limited", "value": 10}, usage=10)
    user = bot.control.add_user()
    with pytest.raises(ApiException):
        push(bot, user)
    bot.control.set_clock(now=datetime(2026, 1, 31, 15, 0, tzinfo=UTC).timestamp())
    assert bot.api.get_message_quota_consumption(**BUDGET).total_usage == 0
    push(bot, user)


def test_retry_key(bot: Bot) -> None:
    user, key = bot.control.add_user(), str(uuid.uuid4())
    first = push(bot, user, key)
    with pytest.raises(ApiException) as caught:
        push(bot, user, key)
    assert refusal(caught) == (409, "The retry key is already accepted")
    assert json.loads(caught.value.body)["sentMessages"][0]["id"] == first.sent_messages[0].id
    assert uuid.UUID(caught.value.headers["x-line-accepted-request-id"])


def test_a_push_that_timed_out_was_accepted(bot: Bot) -> None:
    user, key = bot.control.add_user(), str(uuid.uuid4())
    bot.control.add_fault(path="/v2/bot/message/push", delay_seconds=1.5, times=1)
    request = PushMessageRequest(to=user, messages=[TextMessage(text="x")])
    with pytest.raises(urllib3.exceptions.HTTPError):
        bot.api.push_message(request, x_line_retry_key=key, _request_timeout=0.5)
    with pytest.raises(ApiException) as caught:
        push(bot, user, key)
    assert caught.value.status == 409


def test_reply_by_the_token_of_an_event(bot: Bot, receiver: Receiver) -> None:
    event = bot.control.send({"kind": "text"}, endpoint=receiver.url).events[0]
    request = ReplyMessageRequest(replyToken=event["replyToken"], messages=[TextMessage(text="收到")])
    assert bot.api.reply_message(request, **BUDGET).sent_messages[0].id
    with pytest.raises(ApiException) as caught:
        bot.api.reply_message(request, **BUDGET)
    assert refusal(caught) == (400, "Invalid reply token")
    assert bot.api.get_message_quota_consumption(**BUDGET).total_usage == 0


# Webhook setting


def test_webhook_endpoint(bot: Bot, receiver: Receiver) -> None:
    bot.api.set_webhook_endpoint(SetWebhookEndpointRequest(endpoint=receiver.url), **BUDGET)
    setting = bot.api.get_webhook_endpoint(**BUDGET)
    assert (setting.endpoint, setting.active) == (receiver.url, True)
    bot.control.set_channel(CHANNEL, active=False)
    assert bot.api.get_webhook_endpoint(**BUDGET).active is False


def test_webhook_test(bot: Bot, receiver: Receiver) -> None:
    bot.control.set_channel(CHANNEL, endpoint=receiver.url)
    answer = bot.api.test_webhook_endpoint(ProbeRequest(), **BUDGET)
    assert (answer.success, answer.status_code, answer.reason, answer.detail) == (True, 200, "OK", "200")
    assert abs(answer.timestamp - datetime.now(UTC)) < timedelta(minutes=1)
    received = receiver.next()
    payload = bot.parser.parse(received.body.decode(), received.headers["x-line-signature"], as_payload=True)
    assert (payload.events, payload.destination) == ([], bot.channel["bot"]["userId"])


@pytest.mark.parametrize(
    ("case", "status", "reason", "detail"),
    [
        ("error", 503, "ERROR_STATUS_CODE", "503"),
        ("redirect", 302, "ERROR_STATUS_CODE", "302"),
        ("slow", 0, "REQUEST_TIMEOUT", "Request timeout"),
        ("closed", 0, "COULD_NOT_CONNECT", "Connection failed: {url}"),
        ("other name", 0, "COULD_NOT_CONNECT", "TLS handshake failure: {url}"),
    ],
)
def test_webhook_test_that_fails(
    bot: Bot, receiver: Receiver, *, case: str, status: int, reason: str, detail: str
) -> None:
    url = receiver.url
    receiver.status = status or 200
    receiver.delay = 2.5 if case == "slow" else 0
    if case == "closed":
        with socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"https://{RECEIVER}:{free.getsockname()[1]}/"
    elif case == "other name":
        url = f"https://wrong.example:{receiver.port}/"
    begun = time.monotonic()
    answer = bot.api.test_webhook_endpoint(ProbeRequest(endpoint=url), **BUDGET)
    assert (answer.success, answer.status_code) == (False, status)
    assert (answer.reason, answer.detail) == (reason, detail.format(url=url))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("url", ["https://unknown.example/", "http://line.example/"])
def test_webhook_test_of_a_bad_url(bot: Bot, url: str) -> None:
    with pytest.raises(ApiException) as caught:
        bot.api.test_webhook_endpoint(ProbeRequest(endpoint=url), **BUDGET)
    assert refusal(caught) == (400, "Invalid webhook endpoint URL")


# Webhooks


def parse(bot: Bot, received: Received) -> list[Any]:
    events: list[Any] = bot.parser.parse(received.body.decode(), received.headers["x-line-signature"])
    return events


def test_events_parse_into_the_sdk_classes(bot: Bot, receiver: Receiver) -> None:
    user, group = bot.control.add_user(), bot.control.add_group()
    delivered = bot.control.send(
        {"kind": "image", "user": user, "group": group, "message": "42"},
        {"kind": "text", "user": user, "text": '照片 \u2028 "引號" \\ 😀'},
        {"kind": "follow", "user": user, "unblocked": True},
        {"kind": "join", "group": group},
        endpoint=receiver.url,
    )
    assert (delivered.success, delivered.status, delivered.body) == (True, 200, "noted")
    assert 0 < delivered.latency_seconds < 2
    received = receiver.next()
    assert received.path == "/webhook/line"
    image, text, follow, join = parse(bot, received)
    assert isinstance(image, MessageEvent)
    assert isinstance(image.message, ImageMessageContent)
    assert isinstance(image.source, GroupSource)
    assert (image.message.id, image.message.content_provider.type) == ("42", "line")
    assert (image.source.group_id, image.source.user_id) == (group, user)
    assert isinstance(text, MessageEvent)
    assert isinstance(text.message, TextMessageContent)
    assert isinstance(text.source, UserSource)
    assert text.message.text == '照片 \u2028 "引號" \\ 😀'
    assert isinstance(follow, FollowEvent)
    assert follow.follow.is_unblocked is True
    assert isinstance(join, JoinEvent)
    for event in (image, text, follow, join):
        assert event.mode == "active"
        assert event.delivery_context.is_redelivery is False
        assert len(event.webhook_event_id) == 26
        assert event.reply_token
        assert abs(event.timestamp / 1000 - time.time()) < 60


def test_a_photo_can_be_downloaded(bot: Bot, receiver: Receiver) -> None:
    photo = secrets.token_bytes(4096)
    bot.control.send_photo(photo, endpoint=receiver.url)
    (event,) = parse(bot, receiver.next())
    assert bytes(bot.data.get_message_content(event.message.id, **BUDGET)) == photo


@pytest.mark.parametrize("signature", ["wrong", "other-secret"])
def test_bad_signatures_are_refused(bot: Bot, receiver: Receiver, signature: str) -> None:
    bot.control.send({"kind": "text"}, endpoint=receiver.url, signature=signature)
    with pytest.raises(InvalidSignatureError):
        parse(bot, receiver.next())


def test_a_signature_can_be_missing(bot: Bot, receiver: Receiver) -> None:
    bot.control.send({"kind": "text"}, endpoint=receiver.url, signature="missing")
    assert "x-line-signature" not in receiver.next().headers


@pytest.mark.parametrize("header", ["x-line-signature", "X-Line-Signature", "X-LINE-SIGNATURE"])
def test_header_case_goes_out_as_asked(bot: Bot, receiver: Receiver, header: str) -> None:
    bot.control.send(endpoint=receiver.url, signature_header=header)
    assert header in receiver.next().raw_names


def test_odd_bodies_are_signed_as_they_are(bot: Bot, receiver: Receiver) -> None:
    bot.control.send({"kind": "text", "text": "é 照片"}, endpoint=receiver.url, layout="odd")
    received = receiver.next()
    assert parse(bot, received)[0].message.text == "é 照片"
    rewritten = json.dumps(json.loads(received.body))
    with pytest.raises(InvalidSignatureError):
        bot.parser.parse(rewritten, received.headers["x-line-signature"])


def test_a_raw_body_goes_out_byte_by_byte(bot: Bot, receiver: Receiver) -> None:
    raw = b' { "events" :\t[ ] , "destination":"\\u7167" }\r\n'
    bot.control.send(raw=raw, endpoint=receiver.url)
    received = receiver.next()
    assert received.body == raw
    assert parse(bot, received) == []


def test_delivered_again(bot: Bot, receiver: Receiver) -> None:
    first = bot.control.send({"kind": "image"}, endpoint=receiver.url)
    second = bot.control.send_again(first)
    before, after = parse(bot, receiver.next())[0], parse(bot, receiver.next())[0]
    assert (before.webhook_event_id, before.message.id) == (after.webhook_event_id, after.message.id)
    assert (before.delivery_context.is_redelivery, after.delivery_context.is_redelivery) == (False, True)
    assert second.attempt == 2


def test_redelivery_happens_only_when_switched_on_and_is_bounded(bot: Bot, receiver: Receiver) -> None:
    receiver.status = 500
    quick = {"attempts": 2, "interval_seconds": 0.05}
    bot.control.set_channel(CHANNEL, redelivery={"enabled": False, **quick})
    failed = bot.control.send({"kind": "text"}, endpoint=receiver.url)
    assert (failed.success, failed.reason) == (False, "ERROR_STATUS_CODE")
    time.sleep(0.3)
    assert len(bot.control.deliveries()) == 1
    bot.control.set_channel(CHANNEL, redelivery={"enabled": True, **quick})
    bot.control.send({"kind": "text"}, endpoint=receiver.url)
    attempts = [delivery.attempt for delivery in bot.control.wait_for_deliveries(4)]
    assert attempts == [1, 1, 2, 3]
    time.sleep(0.3)
    assert len(bot.control.deliveries()) == 4, "redelivery is bounded"
    assert bot.control.channel(CHANNEL)["redelivery"] == {"enabled": True, **quick}


def test_redelivery_is_off_in_a_new_channel(bot: Bot) -> None:
    assert bot.channel["redelivery"]["enabled"] is False


def test_a_slow_receiver_times_out(bot: Bot, receiver: Receiver) -> None:
    receiver.delay = 1.0
    slow = bot.control.send({"kind": "text"}, endpoint=receiver.url, deadline_seconds=0.3)
    assert (slow.status, slow.reason) == (0, "REQUEST_TIMEOUT")
    assert 0.3 <= slow.latency_seconds < 0.9
    assert bot.control.send({"kind": "text"}, endpoint=receiver.url).status == 200


# Tokens


def test_tokens(bot: Bot) -> None:
    verified = bot.oauth.verify_channel_token(bot.token, **BUDGET)
    assert verified.client_id == CHANNEL
    assert verified.expires_in > 10**9
    issued = bot.oauth.issue_channel_token("client_credentials", CHANNEL, bot.channel["secret"], **BUDGET)
    assert (issued.expires_in, issued.token_type) == (2592000, "Bearer")
    bot.oauth.revoke_channel_token(issued.access_token, **BUDGET)
    with pytest.raises(OAuthException) as caught:
        bot.oauth.verify_channel_token(issued.access_token, **BUDGET)
    assert caught.value.status == 400
    assert json.loads(caught.value.body)["error"] == "invalid_request"


def test_stateless_tokens(bot: Bot) -> None:
    issued = bot.oauth.issue_stateless_channel_token_by_client_secret(
        CHANNEL, bot.channel["secret"], **BUDGET
    )
    assert (issued.expires_in, issued.token_type) == (900, "Bearer")
    verified = bot.oauth.verify_channel_token_by_jwt(issued.access_token, **BUDGET)
    assert (verified.client_id, 890 <= verified.expires_in <= 900) == (CHANNEL, True)
    bot.token = issued.access_token
    assert bot.api.get_bot_info(**BUDGET).basic_id


def test_wrong_secret(bot: Bot) -> None:
    with pytest.raises(OAuthException) as caught:
        bot.oauth.issue_channel_token("client_credentials", CHANNEL, secrets.token_hex(16), **BUDGET)
    assert json.loads(caught.value.body) == {
        "error": "invalid_client",
        "error_description": "invalid client_secret",
    }


# Ordered faults


def test_a_fault_ends_after_its_times(bot: Bot) -> None:
    bot.control.add_fault(path="/v2/bot/message/quota", status=500, body='{"message":"later"}', times=2)
    for _ in range(2):
        with pytest.raises(ServiceException) as caught:
            bot.api.get_message_quota(**BUDGET)
        assert refusal(caught) == (500, "later")
    assert bot.api.get_message_quota(**BUDGET).type == "none"
    assert [fault["hits"] for fault in bot.control.faults()] == [2]


def test_a_gateway_answers_in_html(bot: Bot) -> None:
    page = "<html>Bad Gateway</html>"
    bot.control.add_fault(host="api.line.me", status=502, body=page, content_type="text/html")
    with pytest.raises(ServiceException) as caught:
        bot.api.get_message_quota(**BUDGET)
    body = caught.value.body
    assert (body.decode() if isinstance(body, bytes) else body) == page
    assert caught.value.headers["content-type"] == "text/html"


def test_a_rate_limit_is_told_apart_from_the_monthly_one(bot: Bot) -> None:
    text = "The API rate limit has been exceeded. Try again later."
    body = json.dumps({"message": text})
    bot.control.add_fault(status=429, body=body, headers={"Retry-After": "1"})
    with pytest.raises(ApiException) as caught:
        bot.api.get_message_quota(**BUDGET)
    assert refusal(caught) == (429, text)


def test_a_dropped_connection(bot: Bot) -> None:
    bot.control.add_fault(drop=True)
    with pytest.raises(urllib3.exceptions.HTTPError):
        bot.api.get_message_quota(**BUDGET)
    assert bot.control.requests()[0]["status"] is None
    bot.control.clear_faults()
    assert bot.api.get_message_quota(**BUDGET).type == "none"


def test_a_photo_that_breaks_off(bot: Bot) -> None:
    message = bot.control.add_content(secrets.token_bytes(100_000))
    fault = bot.control.add_fault(path="*/content", truncate=10_000)
    with pytest.raises(urllib3.exceptions.HTTPError):
        bot.data.get_message_content(message, **BUDGET)
    bot.control.remove_fault(fault)
    assert len(bot.data.get_message_content(message, **BUDGET)) == 100_000


def test_the_journal(bot: Bot) -> None:
    user = bot.control.add_user()
    push(bot, user)
    (entry,) = bot.control.wait_for_requests("/v2/bot/message/push")
    assert (entry["method"], entry["host"], entry["status"]) == ("POST", "api.line.me", 200)
    assert entry["body"]["to"] == user
    assert bot.token not in json.dumps(entry)
    assert bot.control.requests(since=entry["number"]) == []
    with pytest.raises(ControlError, match="fewer than 2 requests"):
        bot.control.wait_for_requests("/v2/bot/message/push", 2, seconds=0.1)


# Running it


def test_only_the_owner_reaches_the_control_socket(stand_in: Control) -> None:
    assert stand_in.socket_path.stat().st_mode & 0o777 == 0o600


def test_control_mistakes_are_told(control: Control) -> None:
    for attempt, message in (
        (lambda: control.set_channel("x"), "a channel ID is a number, not 'x'"),
        (lambda: control.channel("1"), "no channel '1'"),
        (lambda: control.add_fault(statsu=1), "unknown field 'statsu'"),
        (lambda: control.add_user("me"), "a user ID is U and 32 hexadecimal digits"),
        (control.set_clock, "give either offset_seconds or now"),
        (control.send, "name a channel: there are none"),
        (lambda: control.remove_fault(9), "no fault 9"),
    ):
        with pytest.raises(ControlError) as caught:
            attempt()
        assert message in str(caught.value)


def test_plain_http_on_loopback_plays_both_hosts(tmp_path: Path) -> None:
    with serve(Options(state=tmp_path)) as control:
        url = f"http://{control.status()['listening']}"
        control.set_channel(CHANNEL)
        token = control.issue_token(CHANNEL)
        message = control.add_content(b"photo")
        with ApiClient(Configuration(host=url, access_token=token)) as client:
            assert MessagingApi(client).get_message_quota(**BUDGET).type == "none"
        pool = urllib3.PoolManager(headers={"Authorization": f"Bearer {token}"}, timeout=10)
        answer = pool.request("GET", f"{url}/v2/bot/message/{message}/content")
        assert (answer.status, answer.data) == (200, b"photo")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "192.0.2.2"}, "plain HTTP is for loopback only"),
        ({"certificate": Path("none.pem")}, "give both a certificate and its key"),
        ({"certificate": Path("none.pem"), "key": Path("none.key")}, "cannot use certificate none.pem"),
        ({"ca": Path("none.pem")}, "cannot read the authority none.pem"),
        ({"socket": Path("x" * 108)}, "too long for a socket"),
    ],
)
def test_it_tells_why_it_does_not_start(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlError) as caught, serve(Options(state=tmp_path, **options)):
        pass
    assert message in str(caught.value)


def test_as_a_program(tmp_path: Path, authority: Authority) -> None:
    pair = authority.ensure_certificate("line", ["api.line.me", "api-data.line.me"])
    socket_path = tmp_path / "control.sock"
    command = [sys.executable, "-m", "line_platform", "--state-dir", str(tmp_path)]
    command += ["--listen", "127.0.0.1:0", "--certificate", str(pair.certificate), "--key", str(pair.key)]
    command += ["--ca", str(authority.certificate), "--resolve", f"{RECEIVER}=127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            status = Control(socket_path).wait_until_ready()
            assert status["listening"].startswith("127.0.0.1:")
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    assert out.startswith(f"line platform listening on {status['listening']}")
    assert not socket_path.exists()
    with pytest.raises(ControlError, match="no stand-in answers at"):
        Control(socket_path).status()


def test_a_taken_port_is_told_in_one_line(stand_in: Control, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "line_platform", "--state-dir", str(tmp_path)]
    command += ["--listen", stand_in.status()["listening"]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("line_platform: cannot listen on ")
    assert result.stderr.count("\n") == 1
