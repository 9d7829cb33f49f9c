# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a release changes on a host: pure comparison of what is wanted with what is there."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

FINGERPRINT_LABEL = "io.memoryark.fingerprint"
SECRET_PREFIX = "memoryark-"  # noqa: S105 - the prefix of secrets' names
_SECRET = re.compile(r"\{secret:([A-Za-z0-9_.-]+)\}")


@dataclass(frozen=True)
class WantedService:
    """A service of the release; ``level`` orders starts, ``files`` are the absolute paths it reads."""

    name: str
    unit: str
    image: str
    level: int
    files: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class Wanted:
    """The release: texts by absolute path, and the services they make."""

    files: Mapping[str, str]
    services: tuple[WantedService, ...]
    secrets: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Found:
    """The host: files at wanted or owned paths, containers' fingerprints, and what else is there."""

    files: Mapping[str, str] = field(default_factory=dict)
    owned: frozenset[str] = frozenset()
    units: frozenset[str] = frozenset()
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    active: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plan:
    """What is to be done; services are named by unit, ``levels`` in the order of their starts."""

    pull: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    create: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    levels: tuple[tuple[str, ...], ...] = ()

    @property
    def empty(self) -> bool:
        """True when the host already is what is wanted."""
        return not any(self.shown().values())

    def shown(self) -> dict[str, list[str]]:
        """Return the plan as a module returns it."""
        names = ("pull", "secrets", "write", "delete", "create", "restart", "start", "remove")
        return {name: list(getattr(self, name)) for name in names}


def make_plan(wanted: Wanted, found: Found) -> Plan:
    """Compare what is wanted with what was found."""
    units = {service.unit for service in wanted.services}
    create, restart, start = [], [], []
    for service in wanted.services:
        # A file that somebody changed by hand may be what the container runs on.
        edited = any(found.files.get(path) not in {None, wanted.files[path]} for path in service.files)
        if service.unit not in found.units:
            create.append(service.unit)
        elif service.unit not in found.active:
            start.append(service.unit)
        elif edited or found.fingerprints.get(service.unit) != service.fingerprint:
            restart.append(service.unit)
    touched = {*create, *restart, *start}
    depths = sorted({service.level for service in wanted.services})
    levels = [
        tuple(
            service.unit for service in wanted.services if service.level == depth and service.unit in touched
        )
        for depth in depths
    ]
    return Plan(
        pull=tuple(
            sorted({s.image for s in wanted.services if by_digest(s.image) not in found.images}),
        ),
        secrets=tuple(sorted(wanted.secrets - found.secrets)),
        write=tuple(sorted(path for path, text in wanted.files.items() if found.files.get(path) != text)),
        delete=tuple(sorted(found.owned - set(wanted.files))),
        create=tuple(create),
        restart=tuple(restart),
        start=tuple(start),
        remove=tuple(sorted(found.units - units)),
        levels=tuple(level for level in levels if level),
    )


def by_digest(reference: str) -> str:
    """Return an image reference without its tag, which is how Podman names what it pulled by digest."""
    name, _at, digest = reference.partition("@")
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{digest}" if digest else reference


def secret_version(key: bytes, value: str) -> str:
    """Return a short name for a secret's value that tells nothing about it without the host's ``key``."""
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:16]


def secret_names(versions: Mapping[str, str]) -> dict[str, str]:
    """Return the name under which Podman keeps each secret in its present version."""
    return {name: f"{SECRET_PREFIX}{name}-{version}" for name, version in versions.items()}


def bind_secrets(text: str, names: Mapping[str, str]) -> str:
    """Put the names of the present versions where a unit says ``{secret:NAME}``; raises KeyError."""
    return _SECRET.sub(lambda match: names[match[1]], text)


def fingerprint(texts: Iterable[str]) -> str:
    """Return one hash over everything that a container is made from."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def label_unit(text: str, value: str) -> str:
    """Write the fingerprint into the ``[Container]`` section, so that the container itself carries it."""
    return text.replace("\n[Container]\n", f"\n[Container]\nLabel={FINGERPRINT_LABEL}={value}\n", 1)
