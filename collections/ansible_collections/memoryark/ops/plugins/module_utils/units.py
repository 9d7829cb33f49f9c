# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Units of containers: starting until they are healthy, stopping, their logs. Names are without suffix."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

from ansible_collections.memoryark.ops.plugins.module_utils.host import PREFIX, UNIT_LABEL, Host, HostError

States = dict[str, dict[str, str]]
"""Properties by unit, as systemctl shows them."""
WATCHED = ("ActiveState", "InvocationID")
# Where Podman notes health checks, a directory for each unit: its own place goes with the container.
HEALTH = "/run/memoryark/health"

_POLL = 1.0


def bring_up(host: Host, word: str, units: Collection[str], limits: Mapping[str, float]) -> None:
    """Let systemctl do ``word`` with units, and wait for it; raises HostError with the log of what failed.

    ``limits`` are seconds by unit, see ``patience``.
    """
    try:
        host.run(["systemctl", word, *as_services(units)], meanwhile=patience(host, limits))
    except HostError as error:
        failed = sorted(set(units) - host.active_units(units)) or sorted(units)
        what = "did not take its configuration" if word == "reload" else "did not become healthy"
        raise HostError(f"{', '.join(failed)} {what}; {error}\n{logs(host, failed)}") from error


def patience(host: Host, limits: Mapping[str, float]) -> Callable[[], None]:
    """Return what stops a unit that is being started when its health checks have failed for its limit.

    That counts from when the first check is seen. systemd's own limit has room for a slow host to make a
    container; when checks run there is nothing of that to wait for.
    """
    since: dict[str, float] = {}

    def look() -> None:
        states = host.unit_states(limits, "SubState")
        now = time.monotonic()
        starting = [name for name, state in states.items() if state["SubState"] == "start"]
        # Of one that begins anew, what was noted before says nothing.
        for name in set(since) - set(starting):
            del since[name]
        checks = {name: check for name in starting if (check := last_check(host, name))}
        for name, (code, _output) in checks.items():
            if now - since.setdefault(name, now) >= limits[name] and code != 0:
                stop_for_sure(host, [name])

    def try_to_look() -> None:
        # Podman may replace a note while it is read. Without a look systemd's own limit is left.
        with suppress(HostError, OSError):
            look()

    return try_to_look


def stop(host: Host, units: Iterable[str]) -> None:
    """Stop units that leave the release, and remove what containers they left."""
    names = as_services(units)
    stop_units(host, units)
    for name in names:
        host.run(["podman", "rm", "--force", f"--filter=label={UNIT_LABEL}={name}"])


def stop_units(host: Host, units: Iterable[str]) -> None:
    """Stop those of ``units`` that systemd knows."""
    states = host.unit_states(units, "LoadState", "ActiveState")
    known = [
        name
        for name, state in states.items()
        if state["LoadState"] == "loaded" or state["ActiveState"] != "inactive"
    ]
    stop_for_sure(host, known)


def stop_trying(host: Host, units: Iterable[str]) -> None:
    """Stop units that failed and wait to be started again: systemd would start what they need with them."""
    states = host.unit_states(units, "ActiveState")
    stop_for_sure(host, [name for name, state in states.items() if state["ActiveState"] == "activating"])


def stop_for_sure(host: Host, units: Collection[str]) -> None:
    """Stop units, which the start of another that needs them must not cancel."""
    if units:
        host.run(["systemctl", "--job-mode=replace-irreversibly", "stop", *as_services(units)])


def watch(host: Host, before: States, seconds: float) -> None:
    """Raise HostError if one of the units, which are healthy, fails or is started again within ``seconds``.

    ``before`` has their ``WATCHED`` properties from when they had become healthy.
    """
    names = sorted(before)
    if not names:
        return
    deadline = time.monotonic() + seconds
    while True:
        now = host.unit_states(names, *WATCHED)
        failed = [name for name in names if now[name] != before[name] or now[name]["ActiveState"] != "active"]
        if failed:
            raise HostError(
                f"{', '.join(failed)} became healthy and failed within {seconds:g} s\n{logs(host, failed)}"
            )
        if time.monotonic() >= deadline:
            return
        time.sleep(min(_POLL, seconds))


def unit_name(service: str) -> str:
    """Return the name of a service's unit."""
    return service if service.startswith(PREFIX) else PREFIX + service


def as_services(units: Iterable[str]) -> list[str]:
    """Return names of units as systemctl takes them."""
    return [f"{unit}.service" for unit in sorted(units)]


def logs(host: Host, units: Iterable[str]) -> str:
    """Return the last log of units and what their last health check said, for a message about a failure."""
    return "\n".join(
        f"--- last log of {unit} ---\n{host.journal(f'{unit}.service')}{check_said(host, unit)}"
        for unit in units
    )


def check_said(host: Host, unit: str) -> str:
    """Return what the last health check of a unit's container said, nothing without one."""
    check = last_check(host, unit)
    if check is None:
        return ""
    code, output = check
    return f"\n--- last health check of {unit}, exit code {code} ---\n{output or 'it said nothing'}"


def last_check(host: Host, unit: str) -> tuple[int, str] | None:
    """Return exit code and output of the last health check that Podman has noted, None without one."""
    for text in host.tree(f"{HEALTH}/{unit}").values():
        # A container that is killed may leave half a note.
        with suppress(ValueError, KeyError, IndexError, TypeError):
            last = json.loads(text)["Log"][-1]
            return last["ExitCode"], last["Output"].strip()
    return None
