"""Steering the stand-in from a test: synchronous, standard library only."""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from line_platform import identifiers
from line_platform.errors import ControlError
from line_platform.events import Event
from line_platform.platform import TokenKind

Entry = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Delivered:
    """How a webhook went; ``status`` is 0 when the receiver did not answer.

    ``reason`` is one of LINE's: OK, COULD_NOT_CONNECT, REQUEST_TIMEOUT, ERROR_STATUS_CODE,
    UNCLASSIFIED. ``attempt`` is 1 for the first delivery and more for redeliveries.
    """

    number: int
    channel: str
    endpoint: str
    attempt: int
    events: list[Event]
    success: bool
    status: int
    reason: str
    detail: str
    latency_seconds: float
    body: str


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("control", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Control:
    """One stand-in, reached by its control socket.

    Every call raises ControlError with the stand-in's own sentence when it refuses, and when it
    cannot be reached. ``timeout`` is in seconds and must be longer than a webhook's deadline.
    """

    def __init__(self, socket_path: Path, timeout: float = 90.0) -> None:
        self.socket_path = socket_path
        self._timeout = timeout

    # The stand-in itself

    def status(self) -> Entry:
        """``listening`` (address:port of the public API), ``now``, ``channels``, counts."""
        return self._object("GET", "/status")

    def wait_until_ready(self, seconds: float = 15.0) -> Entry:
        """Wait until the stand-in answers; returns its status."""
        return self._poll(self.status, lambda status: True, seconds, "the stand-in does not answer")

    def reset(self) -> None:
        """Forget channels, tokens, people, contents, faults, requests, deliveries and the clock."""
        self._object("POST", "/reset", {})

    def set_clock(self, *, now: float | None = None, offset_seconds: float | None = None) -> float:
        """Move the platform's clock to ``now`` (epoch) or ``offset_seconds`` from the real one."""
        given = {"now": now, "offset_seconds": offset_seconds}
        fields = {name: value for name, value in given.items() if value is not None}
        return float(self._object("POST", "/clock", fields)["now"])

    # What exists

    def set_channel(self, channel: str, **fields: Any) -> Entry:
        """Make a channel or set fields of it; returns all of it, its secret included.

        Fields: ``secret``, ``bot`` (of its account), ``quota`` ({"type": "none"} or {"type":
        "limited", "value": N}), ``usage`` (this month), ``delivered`` ({"push": {"20260131": 57}}),
        ``endpoint`` (webhook URL), ``active``, ``settle_seconds``, ``redelivery`` ({"enabled",
        "attempts", "interval_seconds"}), ``reply_token_seconds``, ``privacy_minimum``, ``denied``
        (path patterns answered with 403). What is not given stays or is made up at random.
        """
        return self._object("PUT", f"/channels/{channel}", fields)

    def channel(self, channel: str) -> Entry:
        """Show a channel."""
        return self._object("GET", f"/channels/{channel}")

    def issue_token(
        self,
        channel: str,
        kind: TokenKind = "long-lived",
        life_seconds: float | None = None,
        value: str | None = None,
    ) -> str:
        """Give out a token, at random or the given one.

        ``life_seconds`` None means as long as LINE's of that kind.
        """
        fields = {"kind": kind, "life_seconds": life_seconds, "value": value}
        return str(self._object("POST", f"/channels/{channel}/tokens", fields)["access_token"])

    def expire_token(self, token: str) -> None:
        """Make a token expire now."""
        self._object("POST", "/tokens/expire", {"access_token": token})

    def add_user(self, user: str | None = None, **profile: Any) -> str:
        """Make a user or set a profile (displayName, pictureUrl, ..., blocked); returns the ID."""
        name = user or identifiers.user_id()
        self._object("PUT", f"/users/{name}", profile)
        return name

    def add_group(self, group: str | None = None, **fields: Any) -> str:
        """Make a group chat (name, picture, members); returns the ID."""
        name = group or identifiers.group_id()
        self._object("PUT", f"/groups/{name}", fields)
        return name

    def add_content(self, data: bytes, message: str | None = None, content_type: str = "image/jpeg") -> str:
        """Keep bytes as a message's content; returns the message ID."""
        name = message or identifiers.message_id()
        self._call("PUT", f"/contents/{name}", data, content_type)
        return name

    def delete_content(self, message: str) -> None:
        """Let a message's content be gone."""
        self._object("DELETE", f"/contents/{message}")

    # Faults and requests

    def add_fault(self, **fields: Any) -> int:
        """Order a fault (see ``faults.Fault`` for the fields); returns its number."""
        return int(self._object("POST", "/faults", fields)["number"])

    def faults(self) -> list[Entry]:
        """The faults with their ``hits``."""
        return self._list("GET", "/faults")

    def remove_fault(self, number: int) -> None:
        """Call one fault off."""
        self._object("DELETE", f"/faults/{number}")

    def clear_faults(self) -> None:
        """Call all faults off."""
        self._object("DELETE", "/faults")

    def requests(self, method: str = "*", path: str = "*", since: int = 0) -> list[Entry]:
        """Requests to the public API after number ``since``; method and path are shell patterns."""
        query = urlencode({"method": method, "path": path, "since": since})
        return self._list("GET", f"/requests?{query}")

    def wait_for_requests(
        self, path: str, count: int = 1, *, method: str = "*", since: int = 0, seconds: float = 15.0
    ) -> list[Entry]:
        """Wait until at least ``count`` such requests have been answered."""

        def answered() -> list[Entry]:
            return [entry for entry in self.requests(method, path, since) if entry["status"] is not None]

        complaint = f"fewer than {count} requests {method} {path} in {seconds:g} s"
        return self._poll(answered, lambda found: len(found) >= count, seconds, complaint)

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._object("DELETE", "/requests")

    # Webhooks

    def send(self, *make: Mapping[str, Any], raw: bytes | None = None, **fields: Any) -> Delivered:
        """Send a webhook with these events, each like ``{"kind": "image", "user": ...}``.

        Without events it is an empty one. ``raw`` replaces the body. Other fields, see
        ``sending.Sending``: channel, endpoint, events, layout, signature, signature_header,
        signature_value, redelivery, deadline_seconds.
        """
        order = {"make": [dict(spec) for spec in make], **fields}
        if raw is not None:
            order["raw"] = base64.b64encode(raw).decode()
        return Delivered(**self._object("POST", "/webhooks", order))

    def send_photo(
        self, data: bytes | None = None, user: str | None = None, group: str | None = None, **fields: Any
    ) -> Delivered:
        """A user sends a photo: its content is there and the event goes out.

        Without ``data`` the photo is a kilobyte of random bytes, different each time.
        """
        message = self.add_content(secrets.token_bytes(1024) if data is None else data)
        return self.send({"kind": "image", "message": message, "user": user, "group": group}, **fields)

    def send_again(self, delivered: Delivered) -> Delivered:
        """Deliver a webhook once more: same event IDs, marked as redelivered."""
        return Delivered(**self._object("POST", f"/webhooks/{delivered.number}/again", {}))

    def deliveries(self) -> list[Delivered]:
        """All webhooks that were sent, redeliveries too."""
        return [Delivered(**entry) for entry in self._list("GET", "/webhooks")]

    def wait_for_deliveries(self, count: int, seconds: float = 15.0) -> list[Delivered]:
        """Wait until at least ``count`` webhooks have been sent."""
        complaint = f"fewer than {count} webhooks in {seconds:g} s"
        return self._poll(self.deliveries, lambda found: len(found) >= count, seconds, complaint)

    # The wire

    def _object(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Entry:
        answer = self._json(method, path, body)
        if not isinstance(answer, dict):
            raise ControlError(f"{method} {path} answered {type(answer).__name__} instead of an object")
        return answer

    def _list(self, method: str, path: str) -> list[Entry]:
        answer = self._json(method, path, None)
        if not isinstance(answer, list):
            raise ControlError(f"{method} {path} answered {type(answer).__name__} instead of a list")
        return answer

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        data = b"" if body is None else json.dumps(body).encode()
        return json.loads(self._call(method, path, data, "application/json"))

    def _call(self, method: str, path: str, body: bytes, content_type: str) -> bytes:
        connection = _UnixConnection(self.socket_path, self._timeout)
        try:
            connection.request(method, quote(path, safe="/?&=%*"), body, {"Content-Type": content_type})
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ControlError(f"no stand-in answers at {self.socket_path}: {error}") from None
        finally:
            connection.close()
        if response.status != 200:
            raise ControlError(_complaint(response.status, data))
        return data

    def _poll(self, look: Callable[[], T], enough: Callable[[T], bool], seconds: float, complaint: str) -> T:
        """Look again and again until it is enough; raises ControlError when time is up."""
        deadline = time.monotonic() + seconds
        while True:
            trouble = complaint
            try:
                if enough(found := look()):
                    return found
            except ControlError as error:
                trouble = str(error)
            if time.monotonic() >= deadline:
                raise ControlError(trouble)
            time.sleep(0.05)


def _complaint(status: int, data: bytes) -> str:
    """The stand-in's own sentence, or the status when it has none."""
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the stand-in answered {status}: {data[:200]!r}"
