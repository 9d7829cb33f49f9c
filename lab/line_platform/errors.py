"""What the stand-in answers when it refuses: the two error shapes of the LINE platform.

The Messaging API answers ``{"message", "details"}`` and leaves ``details`` out when empty; the token
endpoints answer ``{"error", "error_description"}``. Texts are the documented ones; where LINE
documents none the comment says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MONTHLY_LIMIT = "You have reached your monthly limit."
RATE_LIMIT = "The API rate limit has been exceeded. Try again later."
INVALID_TOKEN = (
    "Authentication failed due to the following reason: invalid token. "
    "Confirm that the access token in the authorization header is valid."
)
# LINE publishes "Authentication failed due to the following reason: XXX" but not every XXX.
NO_TOKEN = "Authentication failed due to the following reason: missing access token."
NO_PERMISSION = "Access to this API is not available for your account"
INVALID_REPLY_TOKEN = "Invalid reply token"
RETRY_KEY_ACCEPTED = "The retry key is already accepted"
FAILED_TO_SEND = "Failed to send messages"
NOT_FOUND = "Not found"
INVALID_WEBHOOK_URL = "Invalid webhook endpoint URL"
NO_WEBHOOK_URL = "Webhook endpoint not found"


@dataclass(frozen=True)
class Detail:
    """One entry of ``details``: what is wrong with which property of the request."""

    message: str
    property: str


@dataclass
class ApiError(Exception):
    """A refusal of the Messaging API with its HTTP status."""

    status: int
    message: str
    details: tuple[Detail, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        body: dict[str, Any] = {"message": self.message}
        if self.details:
            body["details"] = [{"message": d.message, "property": d.property} for d in self.details]
        return body | self.extra


@dataclass
class OAuthError(Exception):
    """A refusal of a token endpoint; LINE answers 400 for all of them."""

    error: str
    description: str
    status: int = 400

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": self.error, "error_description": self.description}


def invalid_body(*details: Detail) -> ApiError:
    """The refusal of a request body with these faults."""
    return ApiError(400, f"The request body has {len(details)} error(s)", details)


class ControlError(Exception):
    """A call of the control interface that makes no sense; the message says why."""
