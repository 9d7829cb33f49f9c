"""Rate limits that LINE documents, per channel, method and endpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

# (requests, seconds), from the API reference. Endpoints with the default of 2,000 requests a second
# are left out: nothing in the lab comes near.
LIMITS: Mapping[tuple[str, str], tuple[int, float]] = {
    ("POST", "/v2/bot/channel/webhook/test"): (60, 3600.0),
    ("PUT", "/v2/bot/channel/webhook/endpoint"): (1000, 60.0),
}


class RateLimiter:
    """A sliding window per channel and endpoint."""

    def __init__(self, limits: Mapping[tuple[str, str], tuple[int, float]] = LIMITS) -> None:
        self._limits = limits
        self._seen: dict[tuple[str, str, str], deque[float]] = {}

    def admit(self, channel: str, method: str, path: str, now: float) -> bool:
        """Count one request at ``now`` seconds; False when it is one too many."""
        limit = self._limits.get((method, path))
        if limit is None:
            return True
        requests, window = limit
        seen = self._seen.setdefault((channel, method, path), deque())
        while seen and seen[0] <= now - window:
            seen.popleft()
        if len(seen) >= requests:
            return False
        seen.append(now)
        return True
