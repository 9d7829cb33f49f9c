"""The public API: from a request to a reply, without any network.

Paths, fields and statuses: github.com/line/line-openapi (messaging-api.yml,
channel-access-token.yml) and the API reference on developers.line.biz. Texts of the token endpoints
follow answers that others recorded from the real service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, urlsplit

from line_platform import errors, identifiers
from line_platform.errors import ApiError, Detail, OAuthError, invalid_body
from line_platform.platform import MAX_MESSAGES, Channel, Platform, Token, TokenKind
from line_platform.quota import KINDS, Kind, parse_day

API_HOST = "api.line.me"
DATA_HOST = "api-data.line.me"
MAX_URL = 500
MAX_TEXT = 5000
MESSAGE_TYPES = (
    "text",
    "textV2",
    "sticker",
    "image",
    "video",
    "audio",
    "location",
    "imagemap",
    "template",
    "flex",
    "coupon",
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Call:
    """A request; header names in small letters, ``host`` without a port."""

    method: str
    host: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    request: str = field(default_factory=identifiers.request_id)
    params: Mapping[str, str] = field(default_factory=dict)

    @property
    def bearer(self) -> str | None:
        """The token in the Authorization header."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None


@dataclass(frozen=True)
class Reply:
    """An answer: ``body`` is JSON to write, raw bytes, or None for an empty body."""

    status: int = 200
    body: dict[str, Any] | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def data(self) -> bytes:
        """The body as it goes out."""
        if self.body is None:
            return b""
        return (
            self.body if isinstance(self.body, bytes) else json.dumps(self.body, ensure_ascii=False).encode()
        )


@dataclass(frozen=True)
class Probe:
    """Instead of an answer: the test webhook has to be sent to ``endpoint`` first."""

    channel: Channel
    endpoint: str


@dataclass(frozen=True)
class World:
    """What handlers work on. ``any_host``: names other than LINE's serve both roles (loopback)."""

    platform: Platform
    any_host: bool = False
    plain_endpoints: bool = False


Handler = Callable[[World, Call], Reply | Probe]
ChannelHandler = Callable[[World, Call, Channel], Reply | Probe]


# Quota and statistics


def get_quota(world: World, call: Call, channel: Channel) -> Reply:
    """The target limit for this month."""
    return Reply(body=channel.quota.body())


def get_consumption(world: World, call: Call, channel: Channel) -> Reply:
    """The number of messages sent this month."""
    return Reply(body={"totalUsage": channel.ledger.usage(world.platform.today())})


def get_delivery(world: World, call: Call, channel: Channel) -> Reply:
    """The number of messages of one kind sent on one day."""
    kind = _kind(call.params["kind"])
    try:
        day = parse_day(call.query.get("date", ""))
    except ValueError as error:
        raise ApiError(
            400, "The value for the 'date' parameter is invalid", (Detail(str(error), "date"),)
        ) from None
    return Reply(body=channel.ledger.delivery(kind, day, world.platform.today(), channel.privacy_minimum))


def _kind(text: str) -> Kind:
    for kind in KINDS:
        if kind == text:
            return kind
    raise ApiError(404, errors.NOT_FOUND)


def get_info(world: World, call: Call, channel: Channel) -> Reply:
    """The bot's own account."""
    return Reply(body=channel.bot)


# Webhook setting


def get_endpoint(world: World, call: Call, channel: Channel) -> Reply:
    """The webhook URL. That LINE answers 404 when none is set is an assumption."""
    endpoint = channel.webhook.current(world.platform.now())
    if endpoint is None:
        raise ApiError(404, errors.NO_WEBHOOK_URL)
    return Reply(body={"endpoint": endpoint, "active": channel.webhook.active})


def put_endpoint(world: World, call: Call, channel: Channel) -> Reply:
    """Set the webhook URL."""
    endpoint = _body(call).get("endpoint")
    if not isinstance(endpoint, str):
        raise invalid_body(Detail("May not be empty", "endpoint"))
    if not is_webhook_url(endpoint, world.plain_endpoints):
        raise ApiError(400, errors.INVALID_WEBHOOK_URL)
    channel.webhook.change(endpoint, world.platform.now())
    return Reply(body={})


def probe_endpoint(world: World, call: Call, channel: Channel) -> Reply | Probe:
    """Have a test webhook sent to the URL given or set."""
    endpoint = _body(call).get("endpoint")
    if endpoint is None:
        endpoint = channel.webhook.current(world.platform.now())
        if endpoint is None:
            raise ApiError(404, errors.NO_WEBHOOK_URL)
    if not isinstance(endpoint, str) or not is_webhook_url(endpoint, world.plain_endpoints):
        raise ApiError(400, errors.INVALID_WEBHOOK_URL)
    return Probe(channel, endpoint)


def is_webhook_url(url: str, plain: bool = False) -> bool:
    """Whether LINE takes the URL: HTTPS with a host and at most 500 characters.

    ``plain`` also lets http through to this machine's loopback, for tests without certificates.
    """
    if len(url) > MAX_URL or any(character.isspace() for character in url):
        return False
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (plain and parts.scheme == "http" and host in LOOPBACK))


# Content and people


def get_content(world: World, call: Call, channel: Channel) -> Reply:
    """The bytes that a user sent."""
    content = world.platform.contents.get(call.params["message"])
    if content is None:
        raise ApiError(404, errors.NOT_FOUND)
    if content.data is None:
        # LINE deletes content after a time that it does not publish, and documents the status only.
        raise ApiError(410, "Gone")
    return Reply(body=content.data, content_type=content.content_type)


def get_profile(world: World, call: Call, channel: Channel) -> Reply:
    """A user's profile."""
    return Reply(body=world.platform.profile(call.params["user"]))


def get_group(world: World, call: Call, channel: Channel) -> Reply:
    """A group's name and picture."""
    group = world.platform.groups.get(call.params["group"])
    if group is None:
        raise ApiError(404, errors.NOT_FOUND)
    picture = {"pictureUrl": group.picture} if group.picture else {}
    return Reply(body={"groupId": call.params["group"], "groupName": group.name, **picture})


def get_member(world: World, call: Call, channel: Channel) -> Reply:
    """The profile of somebody in a group, who need not be a friend of the bot."""
    group = world.platform.groups.get(call.params["group"])
    user = call.params["user"]
    if group is None or user not in group.members or user not in world.platform.users:
        raise ApiError(404, errors.NOT_FOUND)
    profile = world.platform.users[user]
    shown: dict[str, Any] = {key: profile[key] for key in ("displayName", "pictureUrl") if key in profile}
    return Reply(body={"userId": user, **shown})


# Sending


def post_reply(world: World, call: Call, channel: Channel) -> Reply:
    """Send up to five messages by reply token."""
    body = _body(call)
    token = body.get("replyToken")
    details = [] if isinstance(token, str) and token else [Detail("May not be empty", "replyToken")]
    messages = _messages(body, details)
    return Reply(body={"sentMessages": world.platform.reply(channel, str(token), messages)})


def post_push(world: World, call: Call, channel: Channel) -> Reply:
    """Send up to five messages to a user or group."""
    body = _body(call)
    to = body.get("to")
    details = [] if isinstance(to, str) and to else [Detail("May not be empty", "to")]
    messages = _messages(body, details)
    if not identifiers.RECIPIENT_ID.fullmatch(str(to)):
        raise ApiError(400, "The property, 'to', in the request body is invalid (line: -, column: -)")
    retry_key = call.headers.get("x-line-retry-key")
    if retry_key is not None and not identifiers.RETRY_KEY.fullmatch(retry_key):
        # LINE documents the form of the key (a UUID), not the text of this refusal.
        raise ApiError(400, "The retry key is invalid")
    sent = world.platform.push(channel, str(to), messages, retry_key, call.request)
    return Reply(body={"sentMessages": sent})


def _messages(body: Mapping[str, Any], details: list[Detail]) -> list[dict[str, Any]]:
    """The messages of a send request; raises ApiError with these and all further faults."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        details.append(Detail(f"Size must be between 1 and {MAX_MESSAGES}", "messages"))
    else:
        for number, message in enumerate(messages):
            details.extend(_message_faults(f"messages[{number}]", message))
    if details or not isinstance(messages, list):
        raise invalid_body(*details)
    return messages


def _message_faults(where: str, message: Any) -> list[Detail]:
    """What is wrong with one message: its type, and its text if it is one."""
    kind = message.get("type") if isinstance(message, dict) else None
    if kind not in MESSAGE_TYPES:
        return [Detail(f"Must be one of the following values: [{', '.join(MESSAGE_TYPES)}]", f"{where}.type")]
    text = message.get("text")
    if kind != "text" or (isinstance(text, str) and 0 < _utf16_length(text) <= MAX_TEXT):
        return []
    fault = (
        f"Length must be between 1 and {MAX_TEXT}" if isinstance(text, str) and text else "May not be empty"
    )
    return [Detail(fault, f"{where}.text")]


def _utf16_length(text: str) -> int:
    """The length as LINE counts it, in UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _body(call: Call) -> dict[str, Any]:
    """The JSON object in the body; raises ApiError."""
    kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"The content type, {kind}, is not supported")
    try:
        body = json.loads(call.body)
    except UnicodeDecodeError:
        raise ApiError(400, "The request body could not be parsed as JSON (line: 1, column: 1)") from None
    except json.JSONDecodeError as error:
        where = f"(line: {error.lineno}, column: {error.colno})"
        raise ApiError(400, f"The request body could not be parsed as JSON {where}") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The request body could not be parsed as JSON (line: 1, column: 1)")
    return body


# Tokens


def issue_short_lived(world: World, call: Call) -> Reply:
    """A token for 30 days by channel ID and secret."""
    return _issue(world, call, "short-lived")


def issue_stateless(world: World, call: Call) -> Reply:
    """A token for 15 minutes by channel ID and secret; signed assertions are not played."""
    return _issue(world, call, "stateless")


def _issue(world: World, call: Call, kind: TokenKind) -> Reply:
    form = _form(call)
    if form.get("grant_type") != "client_credentials":
        raise OAuthError("unsupported_grant_type", "unsupported grant_type")
    token = world.platform.issue_by_secret(
        _required(form, "client_id"), _required(form, "client_secret"), kind
    )
    life = round(token.expires_at - world.platform.now())
    return Reply(body={"access_token": token.value, "expires_in": life, "token_type": "Bearer"})


def revoke(world: World, call: Call) -> Reply:
    """Revoke a token; also one that never was. A stateless token cannot be revoked."""
    token = world.platform.tokens.get(_required(_form(call), "access_token"))
    if token and token.kind != "stateless":
        del world.platform.tokens[token.value]
    return Reply()


def verify_v2(world: World, call: Call) -> Reply:
    """Whose token this is and how long it lasts: long-lived and short-lived ones."""
    token = world.platform.live_token(_required(_form(call), "access_token"))
    if token is None or token.kind not in ("long-lived", "short-lived"):
        raise OAuthError("invalid_request", "access_token invalid")
    return _verified(world, token)


def verify_v21(world: World, call: Call) -> Reply:
    """The same for tokens that are signed objects; other tokens are told apart from expired ones."""
    token = world.platform.tokens.get(_required(call.query, "access_token"))
    if token is None or token.kind not in ("v2.1", "stateless"):
        raise OAuthError("invalid_request", "The access token not JWS")
    if world.platform.live_token(token.value) is None:
        raise OAuthError("invalid_request", "access token expired")
    return _verified(world, token)


def _verified(world: World, token: Token) -> Reply:
    life = int(token.expires_at - world.platform.now())
    return Reply(body={"client_id": token.channel, "expires_in": life, "scope": "P CM"})


def _form(call: Call) -> dict[str, str]:
    kind = call.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "content type must be application/x-www-form-urlencoded")
    form = parse_qs(call.body.decode("utf-8", "replace"), keep_blank_values=True)
    return {name: values[0] for name, values in form.items()}


def _required(form: Mapping[str, str], name: str) -> str:
    if not form.get(name):
        raise OAuthError("invalid_request", f"missing parameter: {name}")
    return form[name]


# Routing


@dataclass(frozen=True)
class Route:
    """A method and path template of one host, and who handles it."""

    method: str
    template: str
    handler: Handler
    host: str = API_HOST

    def params(self, path: str) -> dict[str, str] | None:
        """The variable parts of a path that fits the template; None for one that does not."""
        match = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.template), path)
        return match.groupdict() if match else None


def for_channel(handler: ChannelHandler) -> Handler:
    """Let a handler in only with a good token, permission and within the rate limit."""

    def authorized(world: World, call: Call) -> Reply | Probe:
        channel = world.platform.authorize(call.bearer)
        if any(fnmatchcase(call.path, pattern) for pattern in channel.denied):
            raise ApiError(403, errors.NO_PERMISSION)
        if not world.platform.limiter.admit(channel.id, call.method, call.path, world.platform.now()):
            raise ApiError(429, errors.RATE_LIMIT)
        return handler(world, call, channel)

    return authorized


ROUTES = (
    Route("GET", "/v2/bot/message/quota", for_channel(get_quota)),
    Route("GET", "/v2/bot/message/quota/consumption", for_channel(get_consumption)),
    Route("GET", "/v2/bot/message/delivery/{kind}", for_channel(get_delivery)),
    Route("GET", "/v2/bot/info", for_channel(get_info)),
    Route("GET", "/v2/bot/channel/webhook/endpoint", for_channel(get_endpoint)),
    Route("PUT", "/v2/bot/channel/webhook/endpoint", for_channel(put_endpoint)),
    Route("POST", "/v2/bot/channel/webhook/test", for_channel(probe_endpoint)),
    Route("GET", "/v2/bot/message/{message}/content", for_channel(get_content), host=DATA_HOST),
    Route("GET", "/v2/bot/profile/{user}", for_channel(get_profile)),
    Route("GET", "/v2/bot/group/{group}/summary", for_channel(get_group)),
    Route("GET", "/v2/bot/group/{group}/member/{user}", for_channel(get_member)),
    Route("POST", "/v2/bot/message/reply", for_channel(post_reply)),
    Route("POST", "/v2/bot/message/push", for_channel(post_push)),
    Route("POST", "/v2/oauth/accessToken", issue_short_lived),
    Route("POST", "/v2/oauth/revoke", revoke),
    Route("POST", "/v2/oauth/verify", verify_v2),
    Route("GET", "/oauth2/v2.1/verify", verify_v21),
    Route("POST", "/oauth2/v3/token", issue_stateless),
)


def answer(world: World, call: Call) -> Reply | Probe:
    """Answer a request; refusals are replies too."""
    try:
        return _dispatch(world, call)
    except (ApiError, OAuthError) as refusal:
        return refuse(refusal)


def refuse(refusal: ApiError | OAuthError) -> Reply:
    """The reply that tells of a refusal."""
    headers = refusal.headers if isinstance(refusal, ApiError) else {}
    return Reply(refusal.status, refusal.body(), headers)


def _dispatch(world: World, call: Call) -> Reply | Probe:
    fitting = [
        (route, params)
        for route in ROUTES
        if _serves(world, route.host, call.host) and (params := route.params(call.path)) is not None
    ]
    for route, params in fitting:
        if route.method == call.method:
            return route.handler(world, replace(call, params=params))
    # LINE documents no answer for a wrong method.
    raise ApiError(405, "Method not allowed") if fitting else ApiError(404, errors.NOT_FOUND)


def _serves(world: World, role: str, host: str) -> bool:
    return host == role or (world.any_host and host not in (API_HOST, DATA_HOST))
