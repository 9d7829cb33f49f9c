"""The public API without a network: every refusal and every rule that a bot can run into."""

from __future__ import annotations

import json
import secrets
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pytest
from line_platform import identifiers
from line_platform.api import API_HOST, DATA_HOST, Call, Probe, Reply, World, answer, is_webhook_url
from line_platform.platform import Channel, Content, Group, Platform, TokenKind, new_channel
from line_platform.quota import Quota

TEXT = {"type": "text", "text": "hello"}
# 2026-05-05 12:00 in UTC+9.
NOW = 1_777_950_000.0


@dataclass
class Bench:
    """A platform at a fixed time with one channel, one user and a good token."""

    platform: Platform = field(default_factory=lambda: Platform(lambda: NOW))
    channel: Channel = field(default_factory=lambda: new_channel("1234567890"))
    user: str = field(default_factory=identifiers.user_id)

    def __post_init__(self) -> None:
        self.platform.channels[self.channel.id] = self.channel
        self.platform.users[self.user] = {"displayName": "Somebody", "language": "zh-TW"}
        self.token = self.platform.issue(self.channel.id, "long-lived").value
        self.world = World(self.platform)

    def call(
        self, method: str, path: str, body: Any = None, *, host: str = API_HOST, **changes: Any
    ) -> Reply:
        reply = self.raw(method, path, body, host=host, **changes)
        assert isinstance(reply, Reply)
        return reply

    def raw(
        self, method: str, path: str, body: Any = None, *, host: str = API_HOST, **changes: Any
    ) -> Reply | Probe:
        headers = {"authorization": f"Bearer {changes.pop('token', self.token)}"}
        if body is not None:
            headers["content-type"] = "application/json"
        path, _, query = path.partition("?")
        return answer(
            self.world,
            Call(
                method,
                host,
                path,
                dict(pair.split("=", 1) for pair in query.split("&") if pair),
                headers | changes.pop("headers", {}),
                body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b"",
            ),
        )

    def form(self, path: str, **fields: str) -> Reply:
        kind = {"content-type": "application/x-www-form-urlencoded", "authorization": ""}
        return self.call("POST", path, urlencode(fields).encode(), headers=kind)

    def push(self, to: str | None = None, messages: Any = None, key: str | None = None) -> Reply:
        headers = {"x-line-retry-key": key} if key else {}
        body = {"to": self.user if to is None else to, "messages": [TEXT] if messages is None else messages}
        return self.call("POST", "/v2/bot/message/push", body, headers=headers)

    def reply(self, token: str, messages: Any = None) -> Reply:
        body = {"replyToken": token, "messages": [TEXT] if messages is None else messages}
        return self.call("POST", "/v2/bot/message/reply", body)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def body(reply: Reply) -> dict[str, Any]:
    assert isinstance(reply.body, dict)
    return reply.body


def message(reply: Reply) -> str:
    return str(body(reply)["message"])


# Who may ask


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer unknown", "Basic unknown", "bearer  unknown"]
)
def test_no_good_token(bench: Bench, header: str) -> None:
    reply = bench.call("GET", "/v2/bot/info", headers={"authorization": header})
    assert reply.status == 401
    assert message(reply).startswith("Authentication failed due to the following reason: ")


def test_scheme_is_read_in_any_case(bench: Bench) -> None:
    assert bench.call("GET", "/v2/bot/info", headers={"authorization": f"bEaReR {bench.token}"}).status == 200


def test_expired_token(bench: Bench) -> None:
    token = bench.platform.issue(bench.channel.id, "short-lived").value
    assert bench.call("GET", "/v2/bot/info", token=token).status == 200
    bench.platform.offset_seconds = 2592000
    assert bench.call("GET", "/v2/bot/info", token=token).status == 401


def test_permission(bench: Bench) -> None:
    bench.channel.denied = ["/v2/bot/message/quota*"]
    reply = bench.call("GET", "/v2/bot/message/quota/consumption")
    assert (reply.status, message(reply)) == (403, "Access to this API is not available for your account")
    assert bench.call("GET", "/v2/bot/info").status == 200


@pytest.mark.parametrize(
    ("method", "host", "path", "status"),
    [
        ("GET", API_HOST, "/v2/bot/message/1/content", 404),
        ("GET", DATA_HOST, "/v2/bot/message/1/content", 200),
        ("GET", DATA_HOST, "/v2/bot/info", 404),
        ("GET", "api.example.net", "/v2/bot/info", 404),
        ("POST", API_HOST, "/v2/bot/info", 405),
        ("GET", API_HOST, "/v2/bot/info/", 404),
        ("GET", API_HOST, "/v2/bot/message/delivery/narrowcast?date=20260101", 404),
    ],
)
def test_routing(bench: Bench, method: str, host: str, path: str, status: int) -> None:
    bench.platform.contents["1"] = Content(b"x")
    assert bench.call(method, path, host=host).status == status


# Quota


def test_quota_and_consumption(bench: Bench) -> None:
    assert body(bench.call("GET", "/v2/bot/message/quota")) == {"type": "none"}
    bench.push()
    assert body(bench.call("GET", "/v2/bot/message/quota/consumption")) == {"totalUsage": 1}


@pytest.mark.parametrize("date", ["", "2026-05-04", "20260532"])
def test_bad_date(bench: Bench, date: str) -> None:
    reply = bench.call("GET", f"/v2/bot/message/delivery/push?date={date}")
    assert reply.status == 400
    assert body(reply)["details"][0]["property"] == "date"


def test_pushes_stop_at_the_limit_and_start_again_next_month(bench: Bench) -> None:
    bench.channel.quota = Quota(2)
    assert [bench.push().status for _ in range(3)] == [200, 200, 429]
    assert message(bench.push()) == "You have reached your monthly limit."
    bench.platform.offset_seconds = 27 * 86400
    assert bench.push().status == 200
    assert body(bench.call("GET", "/v2/bot/message/quota/consumption")) == {"totalUsage": 1}


def test_a_push_to_a_group_counts_its_members(bench: Bench) -> None:
    group = identifiers.group_id()
    bench.platform.groups[group] = Group("Choir", members=[identifiers.user_id() for _ in range(3)])
    assert bench.push(group).status == 200
    assert bench.channel.ledger.usage(bench.platform.today()) == 3


def test_a_push_to_someone_who_blocked_the_bot_is_accepted_and_not_counted(bench: Bench) -> None:
    bench.platform.users[bench.user]["blocked"] = True
    assert bench.push().status == 200
    assert bench.channel.ledger.usage(bench.platform.today()) == 0


def test_up_to_five_bubbles_are_one_message(bench: Bench) -> None:
    reply = bench.push(messages=[TEXT] * 5)
    assert len(body(reply)["sentMessages"]) == 5
    assert bench.channel.ledger.usage(bench.platform.today()) == 1


# Sending


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([], "messages"),
        ([TEXT] * 6, "messages"),
        ("hello", "messages"),
        ([{"type": "picture"}], "messages[0].type"),
        (["hello"], "messages[0].type"),
        ([TEXT, {"type": "text"}], "messages[1].text"),
        ([{"type": "text", "text": ""}], "messages[0].text"),
        ([{"type": "text", "text": "x" * 5001}], "messages[0].text"),
        ([{"type": "text", "text": "\U0001f4f7" * 2501}], "messages[0].text"),
    ],
)
def test_bad_messages(bench: Bench, messages: Any, where: str) -> None:
    bench.platform.admit(
        bench.channel, [{"source": {"userId": bench.user}, "replyToken": (token := secrets.token_hex(16))}]
    )
    for refused in (bench.push(messages=messages), bench.reply(token, messages)):
        assert refused.status == 400
        assert message(refused) == "The request body has 1 error(s)"
        assert body(refused)["details"][0]["property"] == where
    assert bench.reply(token).status == 200, "a refused reply must not use up its token"


@pytest.mark.parametrize(
    "messages", [[{"type": "text", "text": "x" * 5000}], [{"type": "text", "text": "📷" * 2500}]]
)
def test_longest_text(bench: Bench, messages: Any) -> None:
    assert bench.push(messages=messages).status == 200


@pytest.mark.parametrize(
    ("to", "text"),
    [
        ("", "The request body has 1 error(s)"),
        ("somebody", "The property, 'to', in the request body is invalid (line: -, column: -)"),
        (identifiers.user_id(), "Failed to send messages"),
    ],
)
def test_bad_recipients(bench: Bench, to: str, text: str) -> None:
    reply = bench.push(to)
    assert (reply.status, message(reply)) == (400, text)


def test_reply_tokens_are_good_once(bench: Bench) -> None:
    token = secrets.token_hex(16)
    bench.platform.admit(bench.channel, [{"source": {"userId": bench.user}, "replyToken": token}])
    assert bench.reply(token).status == 200
    again = bench.reply(token)
    assert (again.status, message(again)) == (400, "Invalid reply token")
    assert bench.channel.ledger.usage(bench.platform.today()) == 0
    assert sum(bench.channel.ledger.sent["reply"].values()) == 1


@pytest.mark.parametrize(("seconds", "status"), [(59, 200), (60, 400)])
def test_reply_tokens_expire(bench: Bench, seconds: float, status: int) -> None:
    token = secrets.token_hex(16)
    bench.platform.admit(bench.channel, [{"source": {"userId": bench.user}, "replyToken": token}])
    bench.platform.offset_seconds = seconds
    assert bench.reply(token).status == status


def test_reply_tokens_belong_to_their_channel(bench: Bench) -> None:
    token = secrets.token_hex(16)
    bench.platform.admit(new_channel("9"), [{"source": {"userId": bench.user}, "replyToken": token}])
    assert bench.reply(token).status == 400


def test_retry_key_is_accepted_once(bench: Bench) -> None:
    key = str(uuid.uuid4())
    first, second = bench.push(key=key), bench.push(key=key.upper())
    assert (first.status, second.status) == (200, 409)
    assert message(second) == "The retry key is already accepted"
    assert body(second)["sentMessages"] == body(first)["sentMessages"]
    assert uuid.UUID(second.headers["x-line-accepted-request-id"])
    assert bench.channel.ledger.usage(bench.platform.today()) == 1
    bench.platform.offset_seconds = 86400
    assert bench.push(key=key).status == 200


def test_a_refused_request_does_not_use_up_its_retry_key(bench: Bench) -> None:
    bench.channel.quota = Quota(0)
    key = str(uuid.uuid4())
    assert bench.push(key=key).status == 429
    bench.channel.quota = Quota()
    assert bench.push(key=key).status == 200


def test_a_retry_key_must_be_a_uuid(bench: Bench) -> None:
    assert bench.push(key="again").status == 400


@pytest.mark.parametrize(
    ("raw", "kind", "status", "text"),
    [
        (b"{", "application/json", 400, "The request body could not be parsed as JSON (line: 1, column: 2)"),
        (b"[]", "application/json", 400, "The request body could not be parsed as JSON (line: 1, column: 1)"),
        (
            b"\xff",
            "application/json",
            400,
            "The request body could not be parsed as JSON (line: 1, column: 1)",
        ),
        (b"{}", "text/plain", 415, "The content type, text/plain, is not supported"),
    ],
)
def test_bad_bodies(bench: Bench, raw: bytes, kind: str, status: int, text: str) -> None:
    reply = bench.call("POST", "/v2/bot/message/push", raw, headers={"content-type": kind})
    assert (reply.status, message(reply)) == (status, text)


# Content and people


def test_content_is_there_gone_or_never_was(bench: Bench) -> None:
    bench.platform.contents["1"] = Content(b"\xff\xd8", "image/jpeg")
    bench.platform.contents["2"] = Content(None)
    replies = [bench.call("GET", f"/v2/bot/message/{n}/content", host=DATA_HOST) for n in (1, 2, 3)]
    assert [reply.status for reply in replies] == [200, 410, 404]
    assert (replies[0].data(), replies[0].content_type) == (b"\xff\xd8", "image/jpeg")


def test_profiles(bench: Bench) -> None:
    path = f"/v2/bot/profile/{bench.user}"
    assert body(bench.call("GET", path)) == {
        "userId": bench.user,
        "displayName": "Somebody",
        "language": "zh-TW",
    }
    bench.platform.users[bench.user]["blocked"] = True
    assert bench.call("GET", path).status == 404
    assert bench.call("GET", f"/v2/bot/profile/{identifiers.user_id()}").status == 404


def test_groups(bench: Bench) -> None:
    group, stranger = identifiers.group_id(), identifiers.user_id()
    bench.platform.admit(
        bench.channel, [{"source": {"type": "group", "groupId": group, "userId": bench.user}}]
    )
    summary = body(bench.call("GET", f"/v2/bot/group/{group}/summary"))
    assert summary == {"groupId": group, "groupName": f"Lab group {group[-4:]}"}
    member = body(bench.call("GET", f"/v2/bot/group/{group}/member/{bench.user}"))
    assert member == {"userId": bench.user, "displayName": "Somebody"}
    assert bench.call("GET", f"/v2/bot/group/{group}/member/{stranger}").status == 404
    assert bench.call("GET", f"/v2/bot/group/{identifiers.group_id()}/summary").status == 404


# Webhook setting

ENDPOINT = "/v2/bot/channel/webhook/endpoint"


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://line.example/webhook/line", True),
        ("https://line.example:8443/", True),
        ("https://line.example/" + "x" * (500 - 21), True),
        ("https://line.example/" + "x" * (501 - 21), False),
        ("http://line.example/", False),
        ("http://127.0.0.1/", False),
        ("https://", False),
        ("https:///webhook", False),
        ("https://line.example:port/", False),
        ("https://line.example/a b", False),
        ("https://[::1", False),
        ("line.example", False),
        ("", False),
    ],
)
def test_webhook_urls(bench: Bench, url: str, good: bool) -> None:
    reply = bench.call("PUT", ENDPOINT, {"endpoint": url})
    assert (reply.status, body(reply)) == (
        (200, {}) if good else (400, {"message": "Invalid webhook endpoint URL"})
    )


def test_plain_urls_are_for_loopback() -> None:
    assert is_webhook_url("http://127.0.0.1:8080/", plain=True)
    assert not is_webhook_url("http://line.example/", plain=True)


def test_endpoint_none_set(bench: Bench) -> None:
    for reply in (
        bench.call("GET", ENDPOINT),
        bench.call("POST", "/v2/bot/channel/webhook/test", {}),
    ):
        assert (reply.status, message(reply)) == (404, "Webhook endpoint not found")


def test_endpoint_settles(bench: Bench) -> None:
    bench.channel.webhook.set_now("https://old.example/")
    bench.channel.webhook.settle_seconds = 60
    bench.call("PUT", ENDPOINT, {"endpoint": "https://new.example/"})
    assert body(bench.call("GET", ENDPOINT)) == {"endpoint": "https://old.example/", "active": True}
    bench.platform.offset_seconds = 60
    assert body(bench.call("GET", ENDPOINT))["endpoint"] == "https://new.example/"


def test_probe_goes_to_the_url_given_else_to_the_one_set(bench: Bench) -> None:
    bench.channel.webhook.set_now("https://set.example/")
    path = "/v2/bot/channel/webhook/test"
    assert bench.raw("POST", path, {}) == Probe(bench.channel, "https://set.example/")
    given = bench.raw("POST", path, {"endpoint": "https://given.example/"})
    assert given == Probe(bench.channel, "https://given.example/")


def test_probes_are_limited_to_sixty_an_hour(bench: Bench) -> None:
    bench.channel.webhook.set_now("https://set.example/")
    for _ in range(60):
        assert isinstance(bench.raw("POST", "/v2/bot/channel/webhook/test", {}), Probe)
    reply = bench.call("POST", "/v2/bot/channel/webhook/test", {})
    assert (reply.status, message(reply)) == (429, "The API rate limit has been exceeded. Try again later.")
    bench.platform.offset_seconds = 3600
    assert isinstance(bench.raw("POST", "/v2/bot/channel/webhook/test", {}), Probe)


# Tokens


@pytest.mark.parametrize(("path", "life"), [("/v2/oauth/accessToken", 2592000), ("/oauth2/v3/token", 900)])
def test_issuing(bench: Bench, path: str, life: int) -> None:
    reply = bench.form(
        path,
        grant_type="client_credentials",
        client_id=bench.channel.id,
        client_secret=bench.channel.secret,
    )
    assert (body(reply)["token_type"], body(reply)["expires_in"]) == ("Bearer", life)
    assert bench.call("GET", "/v2/bot/info", token=body(reply)["access_token"]).status == 200


@pytest.mark.parametrize(
    ("changes", "error", "description"),
    [
        ({"client_secret": "wrong"}, "invalid_client", "invalid client_secret"),
        ({"client_id": "1"}, "invalid_request", "some parameters in the wrong format"),
        ({"client_id": ""}, "invalid_request", "missing parameter: client_id"),
        ({"grant_type": "password"}, "unsupported_grant_type", "unsupported grant_type"),
    ],
)
def test_issuing_refused(bench: Bench, changes: dict[str, str], error: str, description: str) -> None:
    fields = {
        "grant_type": "client_credentials",
        "client_id": bench.channel.id,
        "client_secret": bench.channel.secret,
    }
    for path in ("/v2/oauth/accessToken", "/oauth2/v3/token"):
        reply = bench.form(path, **(fields | changes))
        assert reply.status == 400
        assert body(reply) == {"error": error, "error_description": description}


@pytest.mark.parametrize(
    ("kind", "version_2", "version_21"),
    [("long-lived", 200, 400), ("short-lived", 200, 400), ("v2.1", 400, 200), ("stateless", 400, 200)],
)
def test_verification_by_kind(bench: Bench, kind: TokenKind, version_2: int, version_21: int) -> None:
    token = bench.platform.issue(bench.channel.id, kind, life=120).value
    replies = (
        bench.form("/v2/oauth/verify", access_token=token),
        bench.call("GET", f"/oauth2/v2.1/verify?access_token={token}"),
    )
    assert [reply.status for reply in replies] == [version_2, version_21]
    good = next(reply for reply in replies if reply.status == 200)
    assert (body(good)["client_id"], body(good)["expires_in"]) == (bench.channel.id, 120)


def test_expired_tokens_do_not_verify(bench: Bench) -> None:
    old = bench.platform.issue(bench.channel.id, "long-lived", life=0).value
    newer = bench.platform.issue(bench.channel.id, "v2.1", life=0).value
    assert body(bench.form("/v2/oauth/verify", access_token=old))["error"] == "invalid_request"
    reply = bench.call("GET", f"/oauth2/v2.1/verify?access_token={newer}")
    assert (reply.status, body(reply)["error_description"]) == (400, "access token expired")


@pytest.mark.parametrize(("kind", "after"), [("long-lived", 401), ("short-lived", 401), ("stateless", 200)])
def test_revoking(bench: Bench, kind: TokenKind, after: int) -> None:
    token = bench.platform.issue(bench.channel.id, kind).value
    for _ in range(2):
        reply = bench.form("/v2/oauth/revoke", access_token=token)
        assert (reply.status, reply.data()) == (200, b"")
    assert bench.call("GET", "/v2/bot/info", token=token).status == after
