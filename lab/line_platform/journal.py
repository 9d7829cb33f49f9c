"""What was asked of the stand-in, without the secrets in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from line_platform.api import Call

REDACTED = "<redacted>"
SECRET_FIELDS = frozenset({"access_token", "client_secret", "client_assertion"})
MAX_ENTRIES = 10_000
MAX_TEXT = 2_000

Entry = dict[str, Any]


def digest(token: str) -> str:
    """A name for a token by which tests can tell tokens apart."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


def describe(number: int, when: float, call: Call) -> Entry:
    """Describe a request; ``when`` in seconds since the epoch by the real clock."""
    headers = dict(call.headers)
    if "authorization" in headers:
        headers["authorization"] = f"{headers['authorization'].partition(' ')[0]} {REDACTED}"
    return {
        "number": number,
        "time": when,
        "method": call.method,
        "host": call.host,
        "path": call.path,
        "query": _without_secrets(call.query),
        "headers": headers,
        "token": digest(call.bearer) if call.bearer else None,
        "body": _body(call),
        "request_id": call.request,
        "status": None,
        "fault": None,
    }


def _body(call: Call) -> Any:
    """The body as JSON, form or text, whichever it is; None when empty."""
    if not call.body:
        return None
    text = call.body.decode("utf-8", "replace")
    kind = call.headers.get("content-type", "")
    if kind.startswith("application/x-www-form-urlencoded"):
        return _without_secrets(dict(parse_qsl(text, keep_blank_values=True)))
    try:
        return json.loads(text)
    except ValueError:
        return text[:MAX_TEXT]


def _without_secrets(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: REDACTED if name in SECRET_FIELDS else value for name, value in fields.items()}


class Journal:
    """Requests in the order they came; the oldest go when there are too many.

    With a file, finished requests are also written there as JSON lines, for whoever looks into a
    failed run afterwards.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.entries: list[Entry] = []
        self._last = 0
        self._file = file.open("w", encoding="utf-8", buffering=1) if file else None

    def begin(self, when: float, call: Call) -> Entry:
        """Note a request that has come in; its ``status`` follows when it is answered."""
        self._last += 1
        entry = describe(self._last, when, call)
        self.entries.append(entry)
        del self.entries[:-MAX_ENTRIES]
        return entry

    def finish(self, entry: Entry, status: int | None) -> None:
        """Note the answer; ``status`` None when the connection was dropped."""
        entry["status"] = status
        if self._file:
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def select(self, method: str = "*", path: str = "*", since: int = 0) -> list[Entry]:
        """Entries after number ``since`` whose method and path fit the shell patterns."""
        return [
            entry
            for entry in self.entries
            if entry["number"] > since
            and fnmatchcase(entry["method"], method)
            and fnmatchcase(entry["path"], path)
        ]

    def clear(self) -> None:
        """Forget the entries; numbers go on."""
        self.entries.clear()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
