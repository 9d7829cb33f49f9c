"""What a test may set about a channel, checked as a whole before anything of it is applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from line_platform import identifiers
from line_platform.errors import ControlError
from line_platform.platform import Channel, Platform, Redelivery
from line_platform.quota import KINDS, Quota, parse_day

BOT_FIELDS = frozenset(
    {"userId", "basicId", "premiumId", "displayName", "pictureUrl", "chatMode", "markAsReadMode"}
)
MAX_ATTEMPTS = 10


def describe(platform: Platform, channel: Channel) -> dict[str, Any]:
    """A channel as the control interface shows it, its secret included."""
    return {
        "id": channel.id,
        "secret": channel.secret,
        "bot": channel.bot,
        "quota": channel.quota.body(),
        "usage": channel.ledger.usage(platform.today()),
        "endpoint": channel.webhook.current(platform.now()),
        "active": channel.webhook.active,
        "settle_seconds": channel.webhook.settle_seconds,
        "redelivery": vars(channel.redelivery),
        "reply_token_seconds": channel.reply_token_seconds,
        "privacy_minimum": channel.privacy_minimum,
        "denied": channel.denied,
    }


def apply(platform: Platform, channel: Channel, fields: Mapping[str, Any]) -> None:
    """Set fields of a channel; raises ControlError naming every mistake and then sets none."""
    problems = []
    steps: list[Callable[[], None]] = []
    for name, value in fields.items():
        setter = _SETTERS.get(name)
        if setter is None:
            problems.append(f"unknown field {name!r}, known are {', '.join(_SETTERS)}")
            continue
        try:
            steps.append(setter(platform, channel, value))
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ControlError("bad channel: " + "; ".join(problems))
    for step in steps:
        step()


Step = Callable[[], None]
Setter = Callable[[Platform, Channel, Any], Step]


def _set(target: object, name: str, value: Any) -> Step:
    return lambda: setattr(target, name, value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a text, not {value!r}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"must be a whole number from 0, not {value!r}")
    return value


def _seconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        raise ValueError(f"must be seconds from 0, not {value!r}")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be an object, not {value!r}")
    return value


def _bot(platform: Platform, channel: Channel, value: Any) -> Step:
    unknown = sorted(set(_object(value)) - BOT_FIELDS)
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)}")
    if "userId" in value and not identifiers.USER_ID.fullmatch(str(value["userId"])):
        raise ValueError("userId must be U and 32 hexadecimal digits")
    return _set(channel, "bot", channel.bot | value)


def _quota(platform: Platform, channel: Channel, value: Any) -> Step:
    if not isinstance(value, Mapping) or value.get("type") not in ("none", "limited"):
        raise ValueError('must be {"type": "none"} or {"type": "limited", "value": N}')
    limit = _count(value.get("value")) if value["type"] == "limited" else None
    return _set(channel, "quota", Quota(limit))


def _usage(platform: Platform, channel: Channel, value: Any) -> Step:
    total = _count(value)
    return lambda: channel.ledger.set_usage(platform.today(), total)


def _delivered(platform: Platform, channel: Channel, value: Any) -> Step:
    counts = []
    for kind in KINDS:
        for day, count in _object(_object(value).get(kind, {})).items():
            counts.append((kind, parse_day(day), _count(count)))
    unknown = sorted(set(value) - set(KINDS))
    if unknown:
        raise ValueError(f"unknown kind {', '.join(unknown)}, known are {', '.join(KINDS)}")

    def step() -> None:
        for kind, day, count in counts:
            channel.ledger.sent[kind][day] = count

    return step


def _endpoint(platform: Platform, channel: Channel, value: Any) -> Step:
    # As typed into the console: in force at once. The settling time is for changes by the API.
    endpoint = value if value is None else _text(value)
    return lambda: channel.webhook.set_now(endpoint)


def _redelivery(platform: Platform, channel: Channel, value: Any) -> Step:
    new = Redelivery(**{**vars(channel.redelivery), **_object(value)})
    _flag(new.enabled), _seconds(new.interval_seconds)
    if not 1 <= _count(new.attempts) <= MAX_ATTEMPTS:
        raise ValueError(f"attempts must be from 1 to {MAX_ATTEMPTS}, not {new.attempts!r}")
    return _set(channel, "redelivery", new)


def _denied(platform: Platform, channel: Channel, value: Any) -> Step:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of path patterns, not {value!r}")
    return _set(channel, "denied", [_text(item) for item in value])


_SETTERS: Mapping[str, Setter] = {
    "secret": lambda platform, channel, value: _set(channel, "secret", _text(value)),
    "bot": _bot,
    "quota": _quota,
    "usage": _usage,
    "delivered": _delivered,
    "endpoint": _endpoint,
    "active": lambda platform, channel, value: _set(channel.webhook, "active", _flag(value)),
    "settle_seconds": lambda platform, channel, value: _set(
        channel.webhook, "settle_seconds", _seconds(value)
    ),
    "redelivery": _redelivery,
    "reply_token_seconds": lambda platform, channel, value: _set(
        channel, "reply_token_seconds", _seconds(value)
    ),
    "privacy_minimum": lambda platform, channel, value: _set(channel, "privacy_minimum", _count(value)),
    "denied": _denied,
}
