"""The one error that a program ends with."""

from __future__ import annotations


class AgentError(Exception):
    """Something failed; the message is for the operator and says what to do where that is known."""
