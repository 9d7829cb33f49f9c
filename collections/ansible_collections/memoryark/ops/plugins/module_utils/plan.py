# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a release changes on a host: pure comparison of what is wanted with what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from ansible_collections.memoryark.ops.plugins.module_utils import nftables
from ansible_collections.memoryark.ops.plugins.module_utils.diff import difference
from ansible_collections.memoryark.ops.plugins.module_utils.images import way
from ansible_collections.memoryark.ops.plugins.module_utils.networks import Settings, settings
from ansible_collections.memoryark.ops.plugins.module_utils.release import SURGE, Release, Unit
from ansible_collections.memoryark.ops.plugins.module_utils.rolling import named_units


@dataclass(frozen=True)
class Found:
    """The host.

    ``release`` is the one that it boots, ``damaged`` names files of it that are not as they were written,
    ``links`` are paths of links that should lead a boot to it and do not, and of programs that a boot needs.
    ``openings`` are the elements of the firewall's sets, None without a firewall.
    ``fingerprints`` are those of containers, by unit; ``trial`` names units of a run that did not end.
    ``live`` are the configuration files under running containers, by service and path; ``pending`` names
    services that were not told of theirs yet. ``failed`` is the release of which parts may run, on the way
    back from it.
    """

    release: Release = field(default_factory=Release)
    damaged: frozenset[str] = frozenset()
    links: frozenset[str] = frozenset()
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    active: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    trial: frozenset[str] = frozenset()
    networks: Mapping[str, Settings] = field(default_factory=dict)
    openings: Mapping[str, Sequence[str]] | None = None
    live: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pending: frozenset[str] = frozenset()
    failed: Release = field(default_factory=Release)


@dataclass(frozen=True)
class Plan:
    """What is to be done; services are named by unit, ``levels`` in the order of starts and reloads."""

    pull: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    close: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    create: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    roll: tuple[str, ...] = ()
    reload: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    retire: tuple[str, ...] = ()
    repair: tuple[str, ...] = ()
    levels: tuple[tuple[str, ...], ...] = ()

    @property
    def empty(self) -> bool:
        """True when the host already is what is wanted."""
        return not any(self.shown().values())

    @property
    def images(self) -> tuple[str, ...]:
        """The images that the host lacks."""
        return (*self.pull, *self.load, *self.build)

    @property
    def touched(self) -> frozenset[str]:
        """The units that are started or started again."""
        return frozenset({*self.create, *self.restart, *self.roll, *self.start})

    def without(self, units: set[str]) -> Plan:
        """Return the plan with these units left alone."""
        levels = (tuple(name for name in level if name not in units) for level in self.levels)
        return replace(self, levels=tuple(level for level in levels if level))

    def jobs(self, level: tuple[str, ...]) -> dict[str, list[str]]:
        """Return what systemctl is to do with the units of a level: units by its word for it."""
        words = {
            "restart": {*self.create, *self.restart},
            "start": set(self.start),
            "reload": set(self.reload),
        }
        found = {word: [name for name in level if name in names] for word, names in words.items()}
        return {word: names for word, names in found.items() if names}

    def shown(self) -> dict[str, list[str]]:
        """Return the plan as a module returns it."""
        names = (one.name for one in fields(self) if one.name != "levels")
        return {name: list(getattr(self, name)) for name in names}


def make_plan(wanted: Release, found: Found) -> Plan:
    """Compare what is wanted with what was found."""
    present = {*found.release.names, *found.fingerprints, *found.trial}
    create: list[str] = []
    restart: list[str] = []
    roll: list[str] = []
    reload: list[str] = []
    start: list[str] = []
    networks = [
        name for name, network in wanted.networks.items() if found.networks.get(name) != settings(network)
    ]
    moved = {unit for name in networks for unit in wanted.units_on(name)}
    for unit in (unit for unit in wanted.units if not unit.surge):
        # A file that somebody changed by hand may be what the container runs on.
        edited = unit.name in found.damaged or (not unit.live and unit.configs in found.damaged)
        if unit.name not in present:
            create.append(unit.name)
        elif unit.name not in found.active and found.fingerprints.get(unit.name) in {None, unit.fingerprint}:
            start.append(unit.name)
        elif unit.name in moved or edited or found.fingerprints.get(unit.name) != unit.fingerprint:
            serves_on = unit.name not in moved and can_roll(unit, wanted, found)
            (roll if serves_on else restart).append(unit.name)
        elif unit.live and needs_reload(unit, wanted, found):
            reload.append(unit.name)
    touched = {*create, *restart, *roll, *reload, *start}
    leaving = {name for name in present - wanted.names if not is_idle_surge(name, wanted, found)}
    replaced = {name for name in leaving if is_replaced(name, wanted, found)}
    levels = [
        tuple(unit.name for unit in wanted.units if unit.level == level and unit.name in touched)
        for level in sorted({unit.level for unit in wanted.units})
    ]
    # Without a firewall, or with a release that says nothing of it, there is nothing to change.
    opened = wanted.openings if found.openings is None or not wanted.openings else found.openings
    before, after = found.release.files(), wanted.files()
    damaged = {name for name in after if is_damaged(name, wanted, found.damaged)}
    missing = sorted(image for image in wanted.images if by_digest(image) not in found.images)
    return Plan(
        pull=tuple(image for image in missing if way(image) == "pull"),
        load=tuple(image for image in missing if way(image) == "load"),
        build=tuple(image for image in missing if way(image) == "build"),
        secrets=tuple(sorted(wanted.secrets - found.secrets)),
        networks=tuple(sorted(networks)),
        open=tuple(nftables.missing(wanted.openings, opened)),
        close=tuple(nftables.missing(opened, wanted.openings)),
        write=tuple(
            sorted(damaged | found.links | {name for name, text in after.items() if before.get(name) != text})
        ),
        delete=tuple(sorted(set(before) - set(after))),
        create=tuple(create),
        restart=tuple(restart),
        roll=tuple(roll),
        reload=tuple(reload),
        start=tuple(start),
        remove=tuple(sorted(leaving - replaced)),
        retire=tuple(sorted(replaced)),
        repair=tuple(sorted(found.trial)),
        levels=tuple(level for level in levels if level),
    )


def can_roll(unit: Unit, wanted: Release, found: Found) -> bool:
    """Whether others of its service can serve while a unit is changed.

    A proxy knows those of the present release, at the addresses and ports that they have in it.
    """
    known = {one.name: one for one in found.release.units}
    before = known.get(unit.name)
    others = (other for other in wanted.of(unit.service) if other.name in known and other.name != unit.name)
    return (
        before is not None
        and before.rolling
        and unit.rolling
        and unit.name in found.active
        and addresses(before) == addresses(unit)
        and set(before.ports) <= set(unit.ports)
        and any(other.surge or other.name in found.active for other in others)
        and all(takes_the_same_word(proxy, found) for proxy in proxies_of(unit, wanted))
    )


def proxies_of(unit: Unit, release: Release) -> list[Unit]:
    """Return the units whose configuration sends requests to a unit."""
    naming = {
        name
        for name, files in release.configs.items()
        if any(unit.name in named_units(text) for text in files.values())
    }
    return [one for one in release.units if one.live and one.configs in naming]


def takes_the_same_word(proxy: Unit, found: Found) -> bool:
    """Whether the container of a proxy that runs now reads its files anew in the way of the wanted one.

    Another image may not have the program that the unit calls for it.
    """
    if found.fingerprints.get(proxy.name) in {None, proxy.fingerprint}:
        return True
    running = next((unit for unit in known_units(found) if unit.name == proxy.name), None)
    return running is not None and lines(running, "ExecReload=") == lines(proxy, "ExecReload=")


def known_units(found: Found) -> Iterator[Unit]:
    """Yield the units of which containers may run, those of a release that failed first."""
    yield from found.failed.units
    yield from found.release.units


def addresses(unit: Unit) -> list[str]:
    """Return the networks of a unit with its fixed addresses on them.

    Not with the link addresses: these follow from the others, and are new where a release before had none.
    """
    return [re.sub(r",mac=[0-9a-f:]+", "", line) for line in lines(unit, "Network=")]


def lines(unit: Unit, key: str) -> list[str]:
    """Return the lines of a unit that begin with ``key``."""
    return [line for line in unit.text.splitlines() if line.startswith(key)]


def is_replaced(name: str, wanted: Release, found: Found) -> bool:
    """Whether others of its service serve on when a unit leaves, so that it may stop last."""
    services = {unit.service for unit in known_units(found) if unit.name == name}
    if services:
        return any(wanted.of(service) for service in services)
    # Nothing is known of it but its name.
    first = wanted.first_of(name)
    return first is not None and first.rolling


def is_idle_surge(name: str, wanted: Release, found: Found) -> bool:
    """Whether a unit that runs only during a change does not run."""
    running = {*found.fingerprints, *found.active}
    return name.endswith(SURGE) and name not in running and wanted.first_of(name) is not None


def needs_reload(unit: Unit, wanted: Release, found: Found) -> bool:
    """Whether a running container has other files under it than it should, or does not know of them yet."""
    return unit.service in found.pending or found.live.get(unit.service) != wanted.configs[unit.configs]


def is_damaged(name: str, release: Release, damaged: frozenset[str]) -> bool:
    """Whether the file that ``release.files`` calls ``name`` belongs to something that is ``damaged``."""
    if name.startswith("config/"):
        service = name.split("/")[1]
        return any(unit.service == service and unit.configs in damaged for unit in release.units)
    return name.removesuffix(".container") in damaged


def by_digest(reference: str) -> str:
    """Return an image reference without its tag, which is how Podman names what it pulled by digest."""
    name, _at, digest = reference.partition("@")
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{digest}" if digest else reference


_DOWNTIME = {
    "none": "without downtime",
    "seconds": "down for seconds, until it is healthy again",
    "backup": "down while its databases are copied and until it is healthy again",
    "removed": "gone for good",
}


def downtimes(wanted: Release, plan: Plan) -> dict[str, str]:
    """Return what each unit of a plan costs its users: ``none``, ``seconds``, ``backup`` or ``removed``."""
    with_databases = {unit.name for unit in wanted.units if unit.databases}
    return {
        **dict.fromkeys((*plan.create, *plan.start, *plan.roll, *plan.reload, *plan.retire), "none"),
        **{name: "backup" if name in with_databases else "seconds" for name in plan.restart},
        **dict.fromkeys(plan.remove, "removed"),
    }


def differences(wanted: Release, present: Release, plan: Plan) -> list[dict[str, str]]:
    """Return the file differences for ``--diff``, and one entry that shows the plan for the containers."""
    before, after = present.files(), wanted.files()
    shown = [
        difference(name, before.get(name, ""), after.get(name, "")) for name in [*plan.write, *plan.delete]
    ]
    notes = {name: f": {_DOWNTIME[kind]}" for name, kind in downtimes(wanted, plan).items()}
    actions = [
        f"{word} {unit}{notes.get(unit, '')}\n"
        for word, units in plan.shown().items()
        if word not in {"write", "delete", "repair"}
        for unit in units
    ]
    actions += [f"repair {unit}\n" for unit in plan.repair]
    if actions:
        shown.append(difference("plan", "", "".join(actions)))
    return shown
