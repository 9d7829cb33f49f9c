"""Sending webhooks on a test's behalf: keeps account of them and delivers again when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from line_platform import sending
from line_platform.courier import Courier, Outcome
from line_platform.errors import ControlError
from line_platform.platform import Channel, Platform
from line_platform.sending import Parcel

MAX_DELIVERIES = 10_000


class PostOffice:
    """Webhooks that went out, by number, and those that are yet to go again."""

    def __init__(self, platform: Platform, courier: Courier) -> None:
        self._platform = platform
        self._courier = courier
        self._sent: dict[int, tuple[Channel, Parcel]] = {}
        self._waiting: set[asyncio.Task[None]] = set()
        self._last = 0
        self.deliveries: list[dict[str, Any]] = []

    async def send(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Send what a test ordered and tell how it went; raises ControlError for a bad order."""
        wish = sending.parse_sending(order)
        parcel = sending.compose(self._platform, wish)
        return await self._deliver_first(self._platform.channel(wish.channel), parcel)

    async def send_again(self, number: int) -> dict[str, Any]:
        """Deliver a webhook once more, the way LINE does; raises ControlError for an unknown one."""
        if number not in self._sent:
            raise ControlError(f"no delivery {number} to deliver again")
        channel, parcel = self._sent[number]
        return await self._deliver(channel, sending.again(channel, parcel), attempt=2)

    async def probe(self, channel: Channel, endpoint: str) -> Outcome:
        """Send the webhook without events by which LINE tests a URL; it is no delivery."""
        return await self._courier.deliver(sending.probe(channel, endpoint))

    def reaches(self, endpoint: str) -> bool:
        """Whether the host of a URL can be resolved."""
        return self._courier.reaches(endpoint)

    async def _deliver_first(self, channel: Channel, parcel: Parcel) -> dict[str, Any]:
        delivery = await self._deliver(channel, parcel, attempt=1)
        if not delivery["success"] and channel.redelivery.enabled and not parcel.raw:
            task = asyncio.create_task(self._redeliver(channel, parcel))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
        return delivery

    async def _redeliver(self, channel: Channel, parcel: Parcel) -> None:
        """Deliver again until it works or the attempts are used up."""
        for attempt in range(2, channel.redelivery.attempts + 2):
            await asyncio.sleep(channel.redelivery.interval_seconds)
            delivery = await self._deliver(channel, sending.again(channel, parcel), attempt)
            if delivery["success"]:
                return

    async def _deliver(self, channel: Channel, parcel: Parcel, attempt: int) -> dict[str, Any]:
        outcome = await self._courier.deliver(parcel)
        self._last += 1
        self._sent[self._last] = (channel, parcel)
        delivery = {
            "number": self._last,
            "channel": channel.id,
            "endpoint": parcel.endpoint,
            "attempt": attempt,
            "events": parcel.events,
            "success": outcome.success,
            **vars(outcome),
        }
        self.deliveries.append(delivery)
        del self.deliveries[:-MAX_DELIVERIES]
        self._sent.pop(self._last - MAX_DELIVERIES, None)
        return delivery

    async def reset(self) -> None:
        """Forget all deliveries and stop those that wait."""
        waiting = list(self._waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        self._sent.clear()
        self.deliveries.clear()
