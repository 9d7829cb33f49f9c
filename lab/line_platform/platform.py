"""The model: what the LINE platform remembers, and the rules by which it changes.

No network and no clock of its own: every rule takes the time from ``Platform.now``, which a test can
move to cross the end of a month.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, get_args

from line_platform import errors, identifiers
from line_platform.errors import ApiError, ControlError, OAuthError
from line_platform.events import Event
from line_platform.limits import RateLimiter
from line_platform.quota import Kind, Ledger, Quota, local_day

TokenKind = Literal["long-lived", "short-lived", "v2.1", "stateless"]
TOKEN_KINDS: tuple[TokenKind, ...] = get_args(TokenKind)
# Seconds. Short-lived and v2.1: 30 days; stateless: 15 minutes. A long-lived token does not expire,
# and LINE's example of its verification shows about 99 years.
TOKEN_LIFE: dict[TokenKind, float] = {
    "long-lived": 99 * 365 * 86400.0,
    "short-lived": 2592000.0,
    "v2.1": 2592000.0,
    "stateless": 900.0,
}
RETRY_KEY_LIFE = 86400.0
MAX_MESSAGES = 5


@dataclass
class Token:
    """A channel access token; ``expires_at`` in seconds since the epoch."""

    value: str
    channel: str
    kind: TokenKind
    expires_at: float


@dataclass
class Webhook:
    """The webhook setting of a channel.

    ``settle_seconds`` is how long LINE goes on with the old URL after a change (up to a minute
    in truth, nothing here unless asked for).
    """

    endpoint: str | None = None
    active: bool = True
    settle_seconds: float = 0.0
    _next: tuple[str | None, float] | None = None

    def current(self, now: float) -> str | None:
        """The URL in force at ``now``."""
        if self._next and now >= self._next[1]:
            self.endpoint, self._next = self._next[0], None
        return self.endpoint

    def set_now(self, endpoint: str | None) -> None:
        """Set another URL, in force at once."""
        self.endpoint, self._next = endpoint, None

    def change(self, endpoint: str | None, now: float) -> None:
        """Set another URL, in force when it has settled."""
        self.current(now)
        self._next = (endpoint, now + self.settle_seconds)


@dataclass
class Redelivery:
    """Whether failed webhooks are sent again; off by default, as in LINE's console.

    LINE publishes neither number nor interval, so both are bounded choices of the test.
    """

    enabled: bool = False
    attempts: int = 3
    interval_seconds: float = 1.0


@dataclass
class Channel:
    """A Messaging API channel with its official account.

    ``reply_token_seconds``: LINE says "within one minute" and keeps the right to change it.
    ``privacy_minimum``: below so many messages a day LINE hides their number. ``denied``: path
    patterns that the channel's plan does not allow.
    """

    id: str
    secret: str
    bot: dict[str, Any]
    quota: Quota = field(default_factory=Quota)
    webhook: Webhook = field(default_factory=Webhook)
    redelivery: Redelivery = field(default_factory=Redelivery)
    reply_token_seconds: float = 60.0
    privacy_minimum: int = 20
    denied: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)


@dataclass
class ReplyToken:
    """A reply token given out with an event; good once and not for long."""

    channel: str
    expires_at: float
    used: bool = False


@dataclass(frozen=True)
class Content:
    """The bytes behind a message; ``data`` None once LINE has deleted them."""

    data: bytes | None
    content_type: str = "image/jpeg"


@dataclass(frozen=True)
class Accepted:
    """A send request that was accepted, remembered for its retry key."""

    request: str
    sent: list[dict[str, str]]
    at: float


@dataclass
class Group:
    """A group chat and who is in it besides the bot."""

    name: str
    picture: str | None = None
    members: list[str] = field(default_factory=list)


def new_channel(channel: str) -> Channel:
    """A channel with an account that has chat switched off, no limit and random secrets."""
    bot = {
        "userId": identifiers.user_id(),
        "basicId": f"@{channel[:3]}lab{channel[-3:]}",
        "displayName": "Lab photo bot",
        "chatMode": "bot",
        "markAsReadMode": "auto",
    }
    return Channel(channel, secrets.token_hex(16), bot)


class Platform:
    """Everything the stand-in remembers; nothing of it outlives the process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget everything, the moved clock too."""
        self.offset_seconds = 0.0
        self.channels: dict[str, Channel] = {}
        self.tokens: dict[str, Token] = {}
        self.users: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, Group] = {}
        self.contents: dict[str, Content] = {}
        self.reply_tokens: dict[str, ReplyToken] = {}
        self.accepted: dict[tuple[str, str], Accepted] = {}
        self.limiter = RateLimiter()

    def now(self) -> float:
        """Seconds since the epoch as the platform sees them."""
        return self._clock() + self.offset_seconds

    def today(self) -> date:
        """The day in UTC+9."""
        return local_day(self.now())

    # Channels and tokens

    def channel(self, channel: str | None = None) -> Channel:
        """The channel of that ID, or the only one; raises ControlError otherwise."""
        if channel is not None and channel in self.channels:
            return self.channels[channel]
        if channel is None and len(self.channels) == 1:
            return next(iter(self.channels.values()))
        known = ", ".join(self.channels) or "none"
        raise ControlError(f"no channel {channel!r}" if channel else f"name a channel: there are {known}")

    def issue(
        self, channel: str, kind: TokenKind, life: float | None = None, value: str | None = None
    ) -> Token:
        """Give out a token; a ``life`` of zero or less makes an expired one."""
        seconds = TOKEN_LIFE[kind] if life is None else life
        token = Token(value or secrets.token_urlsafe(96), channel, kind, self.now() + seconds)
        self.tokens[token.value] = token
        return token

    def issue_by_secret(self, client: str, secret: str, kind: TokenKind) -> Token:
        """Give out a token for a channel ID and secret; raises OAuthError when they are wrong."""
        if client not in self.channels:
            raise OAuthError("invalid_request", "some parameters in the wrong format")
        if not secrets.compare_digest(self.channels[client].secret.encode(), secret.encode()):
            raise OAuthError("invalid_client", "invalid client_secret")
        return self.issue(client, kind)

    def live_token(self, value: str) -> Token | None:
        """The token if it was given out and is neither expired nor revoked."""
        token = self.tokens.get(value)
        return token if token and token.expires_at > self.now() else None

    def authorize(self, bearer: str | None) -> Channel:
        """The channel that a bearer token speaks for; raises ApiError 401."""
        if not bearer:
            raise ApiError(401, errors.NO_TOKEN)
        token = self.live_token(bearer)
        if token is None or token.channel not in self.channels:
            raise ApiError(401, errors.INVALID_TOKEN)
        return self.channels[token.channel]

    # People and events

    def admit(self, channel: Channel, events: Sequence[Event]) -> None:
        """Take note of what events imply: who exists, and which reply tokens are out."""
        for event in events:
            source = event.get("source") or {}
            user, group = source.get("userId"), source.get("groupId")
            if user:
                self.users.setdefault(user, {"displayName": f"Lab user {user[-4:]}"})
            if group:
                chat = self.groups.setdefault(group, Group(f"Lab group {group[-4:]}"))
                if user and user not in chat.members:
                    chat.members.append(user)
            if token := event.get("replyToken"):
                expiry = self.now() + channel.reply_token_seconds
                self.reply_tokens.setdefault(token, ReplyToken(channel.id, expiry))

    def recipients(self, to: str) -> int:
        """How many people a message to this ID reaches; raises ApiError when it is unknown."""
        if to in self.groups:
            return len(self.groups[to].members)
        if to not in self.users:
            raise ApiError(400, errors.FAILED_TO_SEND)
        # Somebody who blocked the account gets nothing and is not counted; LINE still answers 200.
        return 0 if self.users[to].get("blocked") else 1

    def profile(self, user: str) -> dict[str, Any]:
        """A user's profile; raises ApiError 404 as LINE does for strangers and blockers alike."""
        profile = self.users.get(user)
        if profile is None or profile.get("blocked"):
            raise ApiError(404, errors.NOT_FOUND)
        return {"userId": user} | {key: value for key, value in profile.items() if key != "blocked"}

    # Sending

    def reply(self, channel: Channel, token: str, messages: Sequence[Any]) -> list[dict[str, str]]:
        """Send by reply token, free of charge; raises ApiError for a used, old or foreign token."""
        known = self.reply_tokens.get(token)
        if known is None or known.channel != channel.id or known.used or known.expires_at <= self.now():
            raise ApiError(400, errors.INVALID_REPLY_TOKEN)
        known.used = True
        channel.ledger.record("reply", self.today(), 1)
        return sent_messages(messages)

    def push(
        self, channel: Channel, to: str, messages: Sequence[Any], retry_key: str | None, request: str
    ) -> list[dict[str, str]]:
        """Push to a user or group, against the limit; at most once for each retry key.

        Raises ApiError 409 for a retry key that was accepted within the last 24 hours and 429 when
        the monthly limit does not allow it. Only accepted requests use up their key.
        """
        kind: Kind = "push"
        if retry_key is not None:
            self._refuse_accepted(channel, retry_key)
        count = self.recipients(to)
        if not channel.quota.allows(channel.ledger.usage(self.today()), count):
            raise ApiError(429, errors.MONTHLY_LIMIT)
        channel.ledger.record(kind, self.today(), count)
        sent = sent_messages(messages)
        if retry_key is not None:
            self.accepted[channel.id, retry_key.lower()] = Accepted(request, sent, self.now())
        return sent

    def _refuse_accepted(self, channel: Channel, retry_key: str) -> None:
        accepted = self.accepted.get((channel.id, retry_key.lower()))
        if accepted and self.now() - accepted.at < RETRY_KEY_LIFE:
            raise ApiError(
                409,
                errors.RETRY_KEY_ACCEPTED,
                headers={"x-line-accepted-request-id": accepted.request},
                extra={"sentMessages": accepted.sent},
            )


def sent_messages(messages: Sequence[Any]) -> list[dict[str, str]]:
    """What LINE tells about messages it took; those that can be quoted get a quote token."""
    quotable = ("text", "sticker", "image", "video", "template", "flex")
    return [
        {"id": identifiers.message_id()}
        | ({"quoteToken": identifiers.quote_token()} if message.get("type") in quotable else {})
        for message in messages
    ]
