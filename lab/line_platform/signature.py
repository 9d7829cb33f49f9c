"""The webhook signature: base64 of HMAC-SHA256 over the raw body, keyed by the channel secret.

Source: developers.line.biz, "Verify webhook signature".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Literal, get_args

Signing = Literal["valid", "wrong", "missing", "other-secret"]
SIGNINGS: tuple[Signing, ...] = get_args(Signing)


def sign(secret: str, body: bytes) -> str:
    """Return the signature of ``body``."""
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def verify(secret: str, body: bytes, signature: str) -> bool:
    """Whether ``signature`` is the signature of ``body``."""
    return hmac.compare_digest(sign(secret, body).encode(), signature.encode())


def present(signing: Signing, secret: str, body: bytes) -> str | None:
    """Return the signature to send, good or bad in the way asked for; None for none.

    ``wrong`` differs from the right one in a single bit, ``other-secret`` is well made with a key
    that nobody has: a receiver must refuse both.
    """
    match signing:
        case "valid":
            return sign(secret, body)
        case "wrong":
            digest = bytearray(base64.b64decode(sign(secret, body)))
            digest[-1] ^= 1
            return base64.b64encode(digest).decode()
        case "other-secret":
            return sign(secrets.token_hex(16), body)
        case "missing":
            return None
