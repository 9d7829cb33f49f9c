"""What is changed of the Compose files, as an inventory would write it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LINE, BACKEND, FRONTEND, PROMETHEUS = "line-service", "memoryark-backend", "memoryark-frontend", "prometheus"

Change = dict[str, Any]


def service_change(service: str, **keys: Any) -> Change:
    """A change of one service."""
    return {"services": {service: keys}}


def changed(service: str, round_: object) -> Change:
    """A change of a service's environment that it does not look at."""
    return service_change(service, environment={"BENCH_ROUND": str(round_)})


def another_route(round_: object) -> Change:
    """A change of the proxy's configuration alone: one more path that leads to the pages."""
    route = {"host": "${MEMORYARK_DOMAIN}", "path": f"/bench-{round_}/", "port": 8080}
    return service_change(FRONTEND, **{"x-memoryark": {"routes": [route]}})


@dataclass(frozen=True)
class Kind:
    """A kind of change of one service as its users feel it; ``change`` makes one of it, another each time."""

    title: str
    meaning: str
    change: Callable[[int], Change]


KINDS = {
    "configuration": Kind(
        "one file of nginx's configuration changed",
        "nginx reads it anew, by the peer it is restarted",
        another_route,
    ),
    "restart": Kind(
        "one variable of Prometheus changed", "it is made anew", lambda number: changed(PROMETHEUS, number)
    ),
    "roll": Kind(
        "one variable of the pages changed, without a gap",
        "another container serves meanwhile, which takes two starts; by the peer they are away while they start",
        lambda number: changed(FRONTEND, number),
    ),
}
