# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A release: everything that a host runs, as one value that can be compared, kept and brought back."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils import nftables

FINGERPRINT_LABEL = "io.memoryark.fingerprint"
SECRET_PREFIX = "memoryark-"  # noqa: S105 - the prefix of secrets' names
_SECRET = re.compile(r"\{secret:([A-Za-z0-9_.-]+)\}")
_CONFIG = "{config}"
# Names of the units of a service's containers but the first; SURGE is the end of the one that stands in.
_FURTHER = re.compile(r"(.+)-(?:\d+|next)")
SURGE = "-next"


@dataclass(frozen=True)
class Unit:
    """One container of the release.

    ``name`` is its unit's without suffix, ``text`` the Quadlet file, ``level`` orders starts, ``configs``
    names its set of configuration files, if any. With ``live`` it reads these anew when it is told to.
    ``check`` is the command that checks them, ``health_limit`` the seconds for which its health checks may
    fail while it starts, 0 for as long as systemd lets it, ``monitor`` those that it must stay healthy,
    ``databases`` are the paths of the SQLite files that it may migrate.

    The units of a ``rolling`` service are changed ``parallelism`` at a time, ``delay`` seconds apart, while
    the others serve on its ``ports``; each has ``grace`` seconds to end what it has begun. One with
    ``surge`` runs only meanwhile.
    """

    name: str
    service: str
    image: str
    level: int
    text: str
    fingerprint: str
    configs: str = ""
    live: bool = False
    check: tuple[str, ...] = ()
    health_limit: float = 0.0
    monitor: float = 0.0
    databases: tuple[str, ...] = ()
    rolling: bool = False
    surge: bool = False
    parallelism: int = 1
    delay: float = 0.0
    grace: float = 10.0
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Release:
    """Units of all kinds with the configuration files, by set and by path in it, that they read.

    ``networks`` are as the networks module takes them, by name. ``openings`` are elements of the firewall's
    sets, by set; a release from before there was a firewall has none.
    """

    units: tuple[Unit, ...] = ()
    systemd: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    networks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    openings: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """The names of the units of its containers, but for those that run only during a change."""
        return frozenset(unit.name for unit in self.units if not unit.surge)

    def of(self, service: str) -> list[Unit]:
        """Return the units of a service."""
        return [unit for unit in self.units if unit.service == service]

    def named(self, names: Collection[str]) -> list[Unit]:
        """Return the units with these names."""
        return [unit for unit in self.units if unit.name in names]

    def first_of(self, name: str) -> Unit | None:
        """Return the first unit of the service of which ``name``, by its form, is a further container."""
        found = _FURTHER.fullmatch(name)
        return next((unit for unit in self.units if found and unit.name == found[1]), None)

    def units_on(self, network: str) -> set[str]:
        """Return the names of the units that are on a network."""
        return {unit.name for unit in self.units if f"\nNetwork={network}:" in unit.text}

    def migrating(self, previous: Release) -> dict[str, tuple[str, ...]]:
        """Return the databases, by unit, of units that are not the same in ``previous``."""
        same = {(unit.name, unit.text) for unit in previous.units}
        units = (unit for unit in self.units if unit.databases and (unit.name, unit.text) not in same)
        return {unit.name: unit.databases for unit in units}

    @property
    def images(self) -> frozenset[str]:
        """The references of its images."""
        return frozenset(unit.image for unit in self.units)

    @property
    def secrets(self) -> frozenset[str]:
        """The versions of secrets that its units name."""
        return frozenset(name for unit in self.units for name in named_secrets(unit.text))

    def files(self) -> dict[str, str]:
        """Every text by a name that stays the same from release to release."""
        shown = {f"{unit.name}.container": unit.text for unit in self.units} | dict(self.systemd)
        if self.openings:
            shown[nftables.FILE] = nftables.elements(self.openings)
        for unit in self.units:
            for path, text in self.configs.get(unit.configs, {}).items():
                shown[f"config/{unit.service}/{path}"] = text
        return shown

    def to_json(self) -> str:
        """Return it as kept on the host."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Release:
        """Read what ``to_json`` wrote, of this or another version: what it does not know it leaves out.

        Raises ValueError, KeyError or TypeError for anything else.
        """
        raw = json.loads(text)
        return cls(
            tuple(read_unit(unit) for unit in raw["units"]),
            raw["systemd"],
            raw["configs"],
            raw.get("networks", {}),
            raw.get("openings", {}),
        )


def health_limits(units: Iterable[Unit]) -> dict[str, float]:
    """Return the limits, by name, of those units that have one."""
    return {unit.name: unit.health_limit for unit in units if unit.health_limit}


def read_unit(raw: Mapping[str, Any]) -> Unit:
    """Return a unit from its JSON; raises TypeError if something is missing that has no default."""
    known = {field.name for field in fields(Unit)}
    values: dict[str, Any] = {name: value for name, value in raw.items() if name in known}
    for name in ("check", "databases", "ports"):
        values[name] = tuple(values.get(name, ()))
    return Unit(**values)


def bind(params: Mapping[str, Any], secrets: Mapping[str, str]) -> Release:
    """Return the release that the module's ``params`` describe, with its secrets' versions in place."""
    units, configs = [], {}
    for service in params["services"]:
        text = bind_secrets(params["quadlets"][f"{service['unit']}.container"], secrets)
        files = params["configs"].get(service["name"], {})
        # Named by its content: an earlier release keeps the very files that it ran on.
        content = fingerprint(part for item in sorted(files.items()) for part in item)[:16]
        bound = text.replace(_CONFIG, content)
        # A container that reads its files anew is the same container with other files.
        value = fingerprint([without_order(text if service["live"] else bound)])
        set_name = f"{service['name']}/{content}" if files else ""
        if files:
            configs[set_name] = dict(files)
        units.append(
            Unit(
                name=service["unit"],
                service=service["name"],
                image=service["image"],
                level=service["level"],
                text=label_unit(bound, value),
                fingerprint=value,
                configs=set_name,
                live=service["live"],
                check=tuple(
                    bind_secrets(word.replace(_CONFIG, content), secrets) for word in service["check"]
                ),
                health_limit=service["health_limit"],
                monitor=service["monitor"],
                databases=tuple(service["databases"]),
                rolling=service["rolling"],
                surge=service["surge"],
                parallelism=service["parallelism"],
                delay=service["delay"],
                grace=service["grace"],
                ports=tuple(service["ports"]),
            )
        )
    networks = {network["name"]: dict(network) for network in params["networks"]}
    return Release(tuple(units), dict(params["systemd_units"]), configs, networks, dict(params["openings"]))


def secret_version(key: bytes, value: str) -> str:
    """Return a short name for a secret's value that tells nothing about it without the host's ``key``."""
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:16]


def secret_names(versions: Mapping[str, str]) -> dict[str, str]:
    """Return the name under which Podman keeps each secret in its present version."""
    return {name: f"{SECRET_PREFIX}{name}-{version}" for name, version in versions.items()}


def bind_secrets(text: str, names: Mapping[str, str]) -> str:
    """Put the names of the present versions where a unit says ``{secret:NAME}``; raises KeyError."""
    return _SECRET.sub(lambda match: names[match[1]], text)


def named_secrets(text: str) -> list[str]:
    """Return the names of the secrets' versions that a unit mounts or gets as variables."""
    lines = (line.partition("=") for line in text.splitlines())
    return [value.partition(",")[0] for key, _equals, value in lines if key == "Secret"]


def fingerprint(texts: Iterable[str]) -> str:
    """Return one hash over texts and the boundaries between them."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def without_order(text: str) -> str:
    """Return a unit without the lines that only order starts: others make no other container."""
    head, section, rest = text.partition("\n[Container]\n")
    kept = [line for line in head.splitlines(keepends=True) if not line.startswith(("After=", "Wants="))]
    return "".join([*kept, section, rest])


def label_unit(text: str, value: str) -> str:
    """Write the fingerprint into the ``[Container]`` section, so that the container itself carries it."""
    return text.replace("\n[Container]\n", f"\n[Container]\nLabel={FINGERPRINT_LABEL}={value}\n", 1)
