"""Identifiers of the shapes that LINE uses. All are random and mean nothing elsewhere."""

from __future__ import annotations

import re
import secrets
import uuid

USER_ID = re.compile(r"U[0-9a-f]{32}")
# Users, group chats and multi-person chats: where a message can be pushed to.
RECIPIENT_ID = re.compile(r"[UCR][0-9a-f]{32}")
RETRY_KEY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def user_id() -> str:
    """A user ID, unique for one provider at LINE."""
    return "U" + secrets.token_hex(16)


def group_id() -> str:
    """A group chat ID."""
    return "C" + secrets.token_hex(16)


def message_id() -> str:
    """A message ID: 18 digits, as LINE's are today."""
    return str(10**17 + secrets.randbelow(9 * 10**17))


def reply_token() -> str:
    """A reply token."""
    return secrets.token_hex(16)


def quote_token() -> str:
    """A quote token."""
    return secrets.token_urlsafe(48)


def request_id() -> str:
    """The value of ``x-line-request-id``."""
    return str(uuid.uuid4())


def event_id(milliseconds: int) -> str:
    """A webhook event ID: a ULID, so that IDs sort by time (48 bits of time, 80 random)."""
    number = ((milliseconds & (1 << 48) - 1) << 80) | secrets.randbits(80)
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))
