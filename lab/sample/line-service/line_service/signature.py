"""LINE's webhook signature."""

from __future__ import annotations

import base64
import hashlib
import hmac


def sign(secret: str, body: bytes) -> str:
    """Return the value of the header x-line-signature for a raw body."""
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def is_valid(secret: str, body: bytes, signature: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(sign(secret, body).encode(), signature.encode())
