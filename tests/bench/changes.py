"""What is changed of the Compose files, as an inventory would write it."""

from __future__ import annotations

from collections.abc import Callable
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


KINDS: dict[str, tuple[str, Callable[[int], Change]]] = {
    "configuration": ("one file of nginx's configuration changed", another_route),
    "restart": ("one variable of Prometheus changed", lambda number: changed(PROMETHEUS, number)),
    "roll": ("one variable of the pages changed, without a gap", lambda number: changed(FRONTEND, number)),
}
"""Changes of one service, as their users feel them: title, and what changes it each time."""
