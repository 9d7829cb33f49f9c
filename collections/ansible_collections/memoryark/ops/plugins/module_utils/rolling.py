# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Changes the containers of a service one after the other, none of them while requests go to it.

A proxy knows of each container by a line of its configuration that ends in ``# instance UNIT``. The line of
one that is to get no requests is commented out, the proxy reads its files anew, and the container is left
alone until its last connection has ended.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from ansible_collections.memoryark.ops.plugins.module_utils.host import UNIT_LABEL, Host
from ansible_collections.memoryark.ops.plugins.module_utils.release import Release, Unit, health_limits
from ansible_collections.memoryark.ops.plugins.module_utils.sockets import ESTABLISHED, TABLES, local_ports
from ansible_collections.memoryark.ops.plugins.module_utils.store import LIVE, PENDING
from ansible_collections.memoryark.ops.plugins.module_utils.units import (
    WATCHED,
    bring_up,
    stop,
    unit_name,
    watch,
)

_LINE = re.compile(r"^#?(?P<text>[ \t]+\S.*# instance (?P<unit>\S+))$", re.MULTILINE)
_POLL = 0.2
# A proxy may have taken a request that it has not passed on yet, such as one of which half has arrived.
QUIET_SECONDS = 3.0


def roll(host: Host, release: Release, names: Collection[str]) -> None:
    """Change the units ``names`` to what they are in ``release``, while others of their services serve.

    Raises HostError if a container does not become healthy; those that were not changed yet serve on.
    """
    for service in sorted({unit.service for unit in release.named(names)}):
        _roll_service(host, release.of(service), names)


def _roll_service(host: Host, units: Sequence[Unit], names: Collection[str]) -> None:
    surges = [unit for unit in units if unit.surge]
    changed = [unit for unit in units if unit.name in names]
    active = host.active_units({unit.name for unit in units})
    # One that has failed since the plan was made is changed all the same, and serves then.
    serving = [unit for unit in units if unit.name in {*active, *names} and not unit.surge]
    if any(unit.name in active for unit in surges):
        # A run that was interrupted left it, and requests may go to it.
        dismiss(host, surges, units, serving)
    if surges:
        renew(host, "start", surges)
    for number, batch in enumerate(batches(changed, changed[0].parallelism)):
        if number:
            # Compose's own meaning of delay: a pause between containers.
            time.sleep(batch[0].delay)
        others = [unit for unit in serving if unit not in batch]
        send_requests(host, units, [*others, *surges])
        drain(host, batch)
        renew(host, "restart", batch)
    dismiss(host, surges, units, serving)


def renew(host: Host, word: str, units: Sequence[Unit]) -> None:
    """Start containers, and see that they stay healthy: the next step trusts them."""
    names = [unit.name for unit in units]
    bring_up(host, word, names, health_limits(units))
    watch(host, host.unit_states(names, *WATCHED), max(unit.monitor for unit in units))


def dismiss(host: Host, surges: Sequence[Unit], units: Sequence[Unit], serving: Sequence[Unit]) -> None:
    """Let those that are ``serving`` take over from those that stood in."""
    send_requests(host, units, serving)
    drain(host, surges)
    stop(host, [unit.name for unit in surges])


def batches(units: Sequence[Unit], size: int) -> Iterator[Sequence[Unit]]:
    """Yield ``units`` in their order, ``size`` at a time, but never all of several at once."""
    size = min(size, max(1, len(units) - 1))
    for begin in range(0, len(units), size):
        yield units[begin : begin + size]


def retire(host: Host, release: Release, names: Iterable[str]) -> None:
    """Stop units that no proxy sends requests to any more."""
    for name in names:
        if first := release.first_of(name):
            drain(host, [replace(first, name=name)])
        stop(host, [name])


def send_requests(host: Host, units: Iterable[Unit], serving: Iterable[Unit]) -> None:
    """Let proxies send the requests for a service's ``units`` to those that are ``serving`` alone."""
    every, chosen = {unit.name for unit in units}, {unit.name for unit in serving}
    proxies = {unit_name(service): service for service in host.list(LIVE)}
    for unit in sorted(host.active_units(proxies)):
        proxy = proxies[unit]
        texts = host.tree(f"{LIVE}/{proxy}")
        changed = {
            path: text for path in texts if (text := sent_to(texts[path], every, chosen)) != texts[path]
        }
        # A run that was interrupted may have written what the proxy was not told yet.
        if changed or proxy in host.list(PENDING):
            host.write(f"{PENDING}/{proxy}", "")
            for path, text in changed.items():
                host.write(f"{LIVE}/{proxy}/{path}", text)
            bring_up(host, "reload", [unit], limits={})
            host.delete(f"{PENDING}/{proxy}")


def sent_to(text: str, units: Collection[str], serving: Collection[str]) -> str:
    """Return a proxy's configuration with the lines of ``serving`` in use, and those of other ``units`` not.

    It stays as it is if it knows none of those that are serving: some answer is better than none.
    """
    if not named_units(text) & set(serving):
        return text

    def line(match: re.Match[str]) -> str:
        if match["unit"] not in units:
            return match[0]
        return match["text"] if match["unit"] in serving else f"#{match['text']}"

    return _LINE.sub(line, text)


def named_units(text: str) -> set[str]:
    """Return the units to which a configuration can send requests."""
    return {match["unit"] for match in _LINE.finditer(text)}


def drain(host: Host, units: Iterable[Unit]) -> None:
    """Wait until nobody has been connected to the units' ports for a while, or their time is over."""
    for unit in units:
        process = main_process(host, unit.name)
        if process and unit.ports:
            wait_until_quiet(partial(connected, host, process, unit.ports), unit.grace)


def wait_until_quiet(busy: Callable[[], bool], patience: float) -> None:
    """Return when ``busy`` was false for ``QUIET_SECONDS`` in a row, or after ``patience`` seconds."""
    begun = last = time.monotonic()
    while (now := time.monotonic()) - begun < patience:
        if busy():
            last = now
        elif now - last >= QUIET_SECONDS:
            return
        time.sleep(_POLL)


def main_process(host: Host, name: str) -> str:
    """Return the number of the first process in a unit's container, empty if none runs."""
    found = host.podman_json("ps", "--format=json", f"--filter=label={UNIT_LABEL}={name}.service")
    return next((str(container["Pid"]) for container in found), "")


def connected(host: Host, process: str, ports: Collection[int]) -> bool:
    """Whether a connection to one of the ports is open in the network namespace of a process."""
    tables = (host.read(f"/proc/{process}/net/{name}") or "" for name in TABLES)
    return any(port in ports for table in tables for port in local_ports(table, ESTABLISHED))
