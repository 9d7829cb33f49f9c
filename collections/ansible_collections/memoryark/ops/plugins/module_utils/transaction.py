# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings a release to a host as one transaction.

Units of the new release are tried from /run, where systemd prefers them and where no boot finds them: until
the release is proven, a power cut at any moment boots the one before it, whole. What makes it the release of
the host is one rename at the end.
"""

from __future__ import annotations

import inspect
import os
import sqlite3
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils import (
    databases,
    images,
    networks,
    nftables,
    rolling,
)
from ansible_collections.memoryark.ops.plugins.module_utils import host as host_module
from ansible_collections.memoryark.ops.plugins.module_utils.host import (
    QUADLET_GENERATOR,
    UNIT_LABEL,
    Host,
    HostError,
    running,
)
from ansible_collections.memoryark.ops.plugins.module_utils.plan import (
    Found,
    Plan,
    by_digest,
    differences,
    downtimes,
    make_plan,
)
from ansible_collections.memoryark.ops.plugins.module_utils.release import (
    FINGERPRINT_LABEL,
    SECRET_PREFIX,
    Release,
    health_limits,
)
from ansible_collections.memoryark.ops.plugins.module_utils.store import AT_BOOT, TARGET, TRIAL, Store
from ansible_collections.memoryark.ops.plugins.module_utils.units import (
    WATCHED,
    States,
    as_services,
    bring_up,
    stop,
    stop_trying,
    stop_units,
    watch,
)


def observe(host: Host, store: Store, wanted: Release) -> Found:
    """Look at everything on the host that the present release and the one that is wanted are about."""
    number = store.current()
    release = store.known(number)
    containers = host.podman_json("ps", "--all", "--format=json", f"--filter=label={FINGERPRINT_LABEL}")
    fingerprints = {
        container["Labels"][UNIT_LABEL].removesuffix(".service"): container["Labels"][FINGERPRINT_LABEL]
        for container in containers
        if UNIT_LABEL in container["Labels"]
    }
    interrupted = trial_units(host)
    own = {unit.name for unit in release.units}
    states = host.unit_states({*fingerprints, *own, *interrupted}, "ActiveState")
    return Found(
        release=release,
        damaged=store.damaged(number, release),
        links=store.wrong_links(release) | wrong_programs(host, release),
        fingerprints=fingerprints,
        active=running(states),
        images=host.images(),
        secrets=host.secrets(),
        networks=networks.look(host, {*release.networks, *wanted.networks}),
        openings=nftables.live(host),
        trial=interrupted | left_over(release, states),
        live=store.live(release),
        pending=store.pending(),
    )


def survey(host: Host, store: Store, wanted: Release) -> tuple[Plan, dict[str, Any]]:
    """Return the plan that brings the host to ``wanted``, and a module's result while nothing is done."""
    found = observe(host, store, wanted)
    plan = make_plan(wanted, found)
    return plan, {
        "changed": not plan.empty,
        "plan": plan.shown(),
        "downtime": downtimes(wanted, plan),
        "diff": differences(wanted, found.release, plan),
        "release": store.current(),
        "warnings": [*store.damage(), *(host.read(databases.RECOVERED) or "").splitlines()],
    }


def prepare(
    host: Host,
    store: Store,
    wanted: Release,
    plan: Plan,
    values: Mapping[str, str],
    *,
    sources: images.Sources,
) -> int:
    """Fetch and write what a new release needs, where nothing uses it yet; return the release's number.

    ``values`` are secrets by the names of their versions, ``sources`` are of images. Raises HostError.
    """
    check_strangers(host, wanted, plan)
    # First: images that were fetched for a release which never came about are known by it, and go with it.
    number = store.stage(wanted)
    images.fetch(host, plan.images, sources)
    for name in plan.secrets:
        host.run(["podman", "secret", "create", name, "-"], data=values[name])
    # Podman leaves it to the kernel when layers and secrets reach the disk; a release must not come before.
    os.sync()
    return number


def check_strangers(host: Host, wanted: Release, plan: Plan) -> None:
    """Raise HostError if containers of others are on networks that must be made anew."""
    networks.check_strangers(
        host, [*plan.networks, *networks.in_the_way(host, wanted.networks, plan.networks)]
    )


def switch(
    host: Host,
    store: Store,
    number: int,
    wanted: Release,
    plan: Plan,
    *,
    origin: Mapping[str, str],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Carry out ``plan`` and make the kept release ``number`` the one that the host boots.

    ``origin`` says who made it of what, and when; a release that was proven before keeps its own. ``notes``
    are files, texts by path, that are true as soon as it is the release of the host.

    Raises HostError, with the release before it back in place, when anything fails.
    """
    databases.settle(host.path(databases.TRIAL), store.current())
    journal = databases.journal(host.path(databases.TRIAL))
    store.check_links(wanted)
    units = generate(host, store.directory(number), wanted) | dict(wanted.systemd)
    check_configs(host, wanted, plan)
    for path in sorted(wrong_programs(host, wanted)):
        host.write(path, programs(wanted)[path])
    try:
        other = is_other_migration(host, store, number, wanted)
        late = late_units(host, store, wanted, {} if other else journal.copies)
        begin_trial(host, {name: text for name, text in units.items() if name not in late})
        if other and take_back(host, wanted) is not None:
            plan = make_plan(wanted, observe(host, store, wanted))
        started = perform(
            host,
            store,
            number,
            wanted,
            plan,
            late={name: units[name] for name in late},
            to_the_end=store.current() == number,
        )
        watch(host, started, monitor_seconds(wanted, started))
        databases.hand_over(host.path(databases.TRIAL), number)
        set_openings(host, wanted, plan)
        for path, text in (notes or {}).items():
            host.write(path, text)
        store.commit(number, wanted, origin)
    except (Exception, SystemExit) as error:
        # Whatever it was, a bug in here included: the host must not be left in between.
        raise HostError(f"{error}\n{roll_back(host, store, number, wanted)}") from error
    databases.end(host.path(databases.TRIAL))
    end_trial(host, wanted)
    host.run(["systemctl", "start", TARGET])
    tidy(host, store)


def programs(release: Release) -> dict[str, str]:
    """Return the programs that a boot of a release runs each time: texts by path."""
    if networks.UNIT not in release.systemd:
        return {}
    return {
        f"{networks.PACKAGES}/{module.__name__.replace('.', '/')}.py": inspect.getsource(module)
        for module in (host_module, networks)
    }


def wrong_programs(host: Host, release: Release) -> frozenset[str]:
    """Return the paths of those programs that are not on the host as they should be."""
    return frozenset(path for path, text in programs(release).items() if host.read(path) != text)


def generate(host: Host, directory: str, release: Release) -> dict[str, str]:
    """Return the services that Quadlet makes of a directory of units; raises HostError if it refuses one."""
    with tempfile.TemporaryDirectory(prefix="memoryark-") as name:
        environment = {"QUADLET_UNIT_DIRS": str(host.path(directory))}
        host.run([QUADLET_GENERATOR, "-no-kmsg-log", name], env=environment)
        made = {path.name: path.read_text(encoding="utf-8") for path in Path(name).glob("*.service")}
    missing = sorted(unit.name for unit in release.units if f"{unit.name}.service" not in made)
    if missing:
        raise HostError(f"Quadlet makes no service of {', '.join(missing)}")
    return made


def check_configs(host: Host, release: Release, plan: Plan) -> None:
    """Let the programs of what changes judge their own configuration; raises HostError with what they say."""
    for unit in release.units:
        if unit.check and unit.name in {*plan.touched, *plan.reload}:
            try:
                host.run(unit.check)
            except HostError as error:
                raise HostError(f"{unit.service} refuses its configuration: {error}") from error


def begin_trial(host: Host, units: Mapping[str, str]) -> None:
    """Let systemd use these units until the next boot, instead of those of the release that it boots."""
    for name in set(trial_files(host)) - set(units):
        host.delete(f"{TRIAL}/{name}")
    add_to_trial(host, units)


def end_trial(host: Host, tried: Release) -> None:
    """Let systemd use the units of the release that the host boots, after another was ``tried``."""
    # One that did not get ready to stand in would be started again, from the old unit, and then stay.
    surges = {unit.name for unit in tried.units if unit.surge}
    idle = surges - host.active_units(surges)
    stop_units(host, idle)
    if idle:
        # Or one that failed would be among systemd's failed units for good.
        host.try_run(["systemctl", "reset-failed", *as_services(idle)])
    for name in trial_files(host):
        host.delete(f"{TRIAL}/{name}")
    host.run(["systemctl", "daemon-reload"])


def trial_files(host: Host) -> list[str]:
    """Return the names of the units of a trial; drop-in directories of an operator are not ours."""
    kinds = (".service", ".target", ".slice")
    return [name for name in host.list(TRIAL) if name.startswith("memoryark") and name.endswith(kinds)]


def trial_units(host: Host) -> frozenset[str]:
    """Return the containers' units that a run left which did not end."""
    services = (name for name in trial_files(host) if name.endswith(".service"))
    return frozenset(name.removesuffix(".service") for name in services if name not in AT_BOOT)


def left_over(release: Release, states: States) -> frozenset[str]:
    """Return the units of a release that stand in for others, or try to, although no change is going on.

    ``states`` are those of all of its units.
    """
    surges = {unit.name for unit in release.units if unit.surge} & set(states)
    return frozenset(name for name in surges if states[name]["ActiveState"] not in {"inactive", "failed"})


def save_databases(
    host: Host, store: Store, number: int | None, wanted: Release, level: Iterable[str]
) -> None:
    """Stop services of ``level`` that are about to change, and copy their databases."""
    present = store.current()
    if number is None or present == number:
        return
    migrating = wanted.migrating(store.known(present))
    folder = store.backups(number)
    copies = {
        str(host.path(path)): str(host.path(store.backup(folder, path)))
        for name in level
        for path in migrating.get(name, ())
        if host.path(path).exists()
    }
    if copies:
        program = inspect.getsource(databases)
        if host.read(databases.PROGRAM) != program:
            host.write(databases.PROGRAM, program)
        stop_trying(host, wanted.names | store.known(present).names)
        stop_units(host, set(level) & set(migrating))
        with told_to_the_operator("a database cannot be copied"):
            databases.begin(host.path(databases.TRIAL), number, copies)


def is_other_migration(host: Host, store: Store, number: int, wanted: Release) -> bool:
    """Whether an interrupted release has migrated databases for services that are not the wanted ones."""
    tried = databases.journal(host.path(databases.TRIAL)).release
    return store.current() == number or bool(wanted.migrating(store.known(tried)))


def take_back(host: Host, *releases: Release) -> list[str] | None:
    """Bring back what an interrupted or failed release made of databases; return what was done.

    That may be nothing, with the services stopped all the same; None if there was no such release.
    """
    journal = host.path(databases.TRIAL)
    if not databases.journal(journal).copies:
        return None
    stop_trying(host, {unit.name for release in releases for unit in release.units})
    stop_units(host, {unit.name for release in releases for unit in release.units if unit.databases})
    with told_to_the_operator("a database cannot be brought back"):
        return databases.take_back(journal)


@contextmanager
def told_to_the_operator(what: str) -> Iterator[None]:
    """Turn errors of files and databases into HostError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise HostError(f"{what}: {error}") from error


def late_units(host: Host, store: Store, wanted: Release, copied: Collection[str]) -> frozenset[str]:
    """Return the services of ``wanted`` that may migrate databases which are not ``copied`` yet.

    Until the copy is made nobody may start them, and systemd starts what something else wants, or what
    crashed, whenever that is.
    """
    migrating = wanted.migrating(store.known(store.current()))
    return frozenset(
        f"{name}.service"
        for name, paths in migrating.items()
        if not {str(host.path(path)) for path in paths} <= {*copied}
    )


def add_to_trial(host: Host, units: Mapping[str, str]) -> None:
    """Let systemd use these units as well."""
    for name, text in units.items():
        host.write(f"{TRIAL}/{name}", text)
    if units:
        host.run(["systemctl", "daemon-reload"])


def perform(
    host: Host,
    store: Store,
    number: int | None,
    release: Release,
    plan: Plan,
    *,
    late: Mapping[str, str] | None = None,
    to_the_end: bool = False,
) -> States:
    """Stop what leaves, then start level by level, each until all are healthy or one failed.

    ``late`` are units that join the trial when the databases of their level have been copied. ``to_the_end``
    goes on with the next level after a failure, which is raised at the end. Return the states
    of the units as they were when they had become healthy.
    """
    stop(host, plan.remove)
    if plan.open:
        # Beside what the other release opens, which serves until this one does.
        nftables.load(host, nftables.elements(release.openings, replace=False))
    make_networks(host, release, plan)
    if plan.touched:
        # A start limit that an earlier attempt ran into must not refuse this one. Units that systemd has not
        # loaded yet make the command fail, and need it not.
        surges = {unit.name for unit in release.units if unit.surge}
        host.try_run(["systemctl", "reset-failed", *as_services(plan.touched | surges)])
    started: States = {}
    errors = []
    late = dict(late or {})
    for level in plan.levels:
        try:
            for name in level:
                store.put_live(release, name)
            save_databases(host, store, number, release, level)
            due = {name: late.pop(name) for name in as_services(level) if name in late}
            add_to_trial(host, due)
            for word, units in plan.jobs(level).items():
                bring_up(host, word, units, health_limits(release.named(units)))
            rolling.roll(host, release, [name for name in level if name in plan.roll])
        except Exception as error:
            # Whatever it was, a bug in here included: it must not keep the other levels from coming back.
            errors.append(str(error))
            if not to_the_end:
                break
        else:
            store.told(release, level)
            started |= host.unit_states(level, *WATCHED)
    if errors:
        raise HostError("\n".join(errors))
    # What runs already as it should be is in no level.
    add_to_trial(host, late)
    rolling.retire(host, release, plan.retire)
    return started


def make_networks(host: Host, release: Release, plan: Plan) -> None:
    """Make the networks that are missing or changed; what is on these is stopped for it."""
    if not plan.networks:
        return
    stop_units(host, {unit for name in plan.networks for unit in release.units_on(name)})
    present = networks.look(host, plan.networks)
    leaving = [*sorted(present), *networks.in_the_way(host, release.networks, plan.networks)]
    for name in leaving:
        # Also what was on it only in an earlier release.
        stop(host, [unit.removesuffix(".service") for unit in networks.units_on(host, name)])
    networks.make(host, [release.networks[name] for name in plan.networks], leaving)


def set_openings(host: Host, release: Release, plan: Plan) -> None:
    """Let the firewall open what the release says and nothing else."""
    if plan.open or plan.close:
        nftables.load(host, nftables.elements(release.openings))


def monitor_seconds(release: Release, names: Iterable[str]) -> float:
    """Return for how long units must stay healthy before the release counts."""
    return max((unit.monitor for unit in release.named({*names})), default=0.0)


def roll_back(host: Host, store: Store, tried: int, failed: Release) -> str:
    """Put back the release that the host boots; return what became of it."""
    number = store.current()
    try:
        previous = store.load(number)
    except HostError as error:
        return f"{error}\n{start_unknown(host, failed)}"
    if number is not None and number == tried:
        return f"Release {number} itself is the one that runs; run this again to bring it to its end."
    try:
        if number is not None:
            store.put(number, previous)
        stop(host, intruders(failed, previous))
        done, problem = try_to_take_back(host, previous, failed)
        end_trial(host, failed)
        plan = make_plan(previous, replace(observe(host, store, previous), failed=failed))
        if problem:
            plan = plan.without({unit.name for unit in previous.units if unit.databases})
        # What the failed release gave to others, a port or a name, must be free before its owner starts.
        stop_units(host, plan.touched - {*plan.roll})
        perform(host, store, number, previous, plan, to_the_end=True)
        set_openings(host, previous, plan)
    except (Exception, SystemExit) as error:
        return f"Release {number} could not be put back: {error}"
    if problem:
        return f"Release {number} is back but for the services with databases: {problem}"
    if number is None:
        return "\n".join([*done, "There was no release before it; its containers were stopped."])
    return "\n".join([*done, f"Release {number} is back and healthy."])


def start_unknown(host: Host, failed: Release) -> str:
    """Start what the host boots, of which nothing but its units is known; return what became of it."""
    try:
        stop_units(host, {unit.name for unit in failed.units})
        done, problem = try_to_take_back(host, failed)
        end_trial(host, failed)
        if not problem:
            host.run(["systemctl", "start", TARGET])
    except (Exception, SystemExit) as error:
        done, problem = [], str(error)
    if problem:
        return f"What ran before could not be started: {problem}"
    return "\n".join([*done, "It was started as a boot does."])


def intruders(failed: Release, previous: Release) -> set[str]:
    """Return the units that only the failed release has, but for those that may be serving for others."""
    return {
        unit.name
        for unit in failed.units
        if unit.name not in previous.names and not (unit.rolling and previous.of(unit.service))
    }


def try_to_take_back(host: Host, *releases: Release) -> tuple[list[str], str]:
    """As ``take_back``; return what was done, and why it did not work, nothing if it did."""
    try:
        return take_back(host, *releases) or [], ""
    except HostError as error:
        return [], str(error)


def tidy(host: Host, store: Store) -> None:
    """Remove what only releases had that are no longer kept: images, versions of secrets, the releases."""
    releases = store.releases()
    kept = [releases[number] for number in store.kept()]
    needed = {by_digest(image) for release in kept for image in release.images}
    all_images = {by_digest(image) for release in releases.values() for image in release.images}
    for image in sorted(all_images - needed):
        # Podman refuses to remove one that somebody else's container uses; then it stays.
        host.try_run(["podman", "image", "rm", "--ignore", images.stored_name(image)])
    if not any(images.way(image) == "build" for image in needed):
        images.remove_foundations(host, keep=())
    secrets = {secret for release in kept for secret in release.secrets}
    old = sorted(name for name in host.secrets() if name.startswith(SECRET_PREFIX) and name not in secrets)
    if old:
        host.run(["podman", "secret", "rm", *old])
        # Podman rewrites the one file of all secrets.
        os.sync()
    present = store.load(store.current())
    left = {name for release in releases.values() for name in release.networks} - set(present.networks)
    for name in networks.look(host, left) if left else ():
        if not networks.on(host, name):
            networks.remove(host, name)
    store.prune()
