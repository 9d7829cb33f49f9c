# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compose's override merge.

Source: the Compose Specification, chapter "Merge": mappings merge by key, sequences are appended,
``command``, ``entrypoint`` and ``healthcheck.test`` are replaced, and resources that are identified
by a target (ports, volumes, secrets) or by a name (environment, labels) are unique.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

REPLACED = {"command", "entrypoint", "test"}


def keyed(value: Any) -> dict[str, Any]:
    """Return the mapping form of a Compose map-or-list such as ``environment``."""
    if isinstance(value, Mapping):
        return dict(value)
    pairs = (str(item).partition("=") for item in value)
    return {name: (content if found else None) for name, found, content in pairs}


def extra_hosts(value: Any) -> dict[str, Any]:
    """Return ``extra_hosts`` as a mapping; its list form allows ``name=address`` and ``name:address``."""
    if isinstance(value, Mapping):
        return dict(value)
    return dict(_host_entry(str(item)) for item in value)


def _host_entry(item: str) -> tuple[str, str]:
    separator = "=" if "=" in item else ":"
    name, _found, address = item.partition(separator)
    return name, address


def named(value: Any) -> dict[str, Any]:
    """Return the mapping form of ``networks`` and ``depends_on``, whose lists hold names."""
    return dict(value) if isinstance(value, Mapping) else {str(name): None for name in value}


def listed(value: Any) -> list[Any]:
    """Return the list form of what may be one text or a list of texts."""
    return [value] if isinstance(value, str) else list(value)


# What may be written in two ways is brought to one before it is merged.
SHAPES: dict[str, Callable[[Any], Any]] = {
    "environment": keyed,
    "labels": keyed,
    "sysctls": keyed,
    "args": keyed,
    "extra_hosts": extra_hosts,
    "networks": named,
    "depends_on": named,
    "tmpfs": listed,
    "dns": listed,
    "dns_search": listed,
}


def _volume_target(item: Any) -> str:
    if isinstance(item, Mapping):
        return str(item.get("target"))
    source, _colon, rest = str(item).partition(":")
    return rest.partition(":")[0] or source


def _secret_target(item: Any) -> str:
    return str(item.get("target") or item.get("source")) if isinstance(item, Mapping) else str(item)


def _version(item: Any) -> str:
    """A network has one subnet of IPv4 and one of IPv6: another takes its place, with its range."""
    return "6" if ":" in str(item.get("subnet")) else "4"


def _itself(item: Any) -> str:
    return repr(item)


UNIQUE_BY: dict[str, Callable[[Any], str]] = {
    "volumes": _volume_target,
    "secrets": _secret_target,
    "ports": _itself,
    "expose": _itself,
    "cap_add": _itself,
    "cap_drop": _itself,
    "security_opt": _itself,
    "tmpfs": _itself,
    "dns": _itself,
    "config": _version,
}


def merge(base: Any, override: Any, key: str = "") -> Any:
    """Return ``base`` overridden by ``override``; ``key`` is the name under which both stand."""
    if base is None or override is None or key in REPLACED:
        return base if override is None else override
    if key in SHAPES:
        base, override = SHAPES[key](base), SHAPES[key](override)
    if isinstance(base, Mapping) and isinstance(override, Mapping):
        added = [name for name in override if name not in base]
        return {name: merge(base.get(name), override.get(name), str(name)) for name in [*base, *added]}
    if isinstance(base, list) and isinstance(override, list):
        return _merge_lists(base, override, UNIQUE_BY.get(key))
    return override


def _merge_lists(base: list[Any], override: list[Any], identity: Callable[[Any], str] | None) -> list[Any]:
    if identity is None:
        return [*base, *override]
    merged = {identity(item): item for item in base}
    merged.update({identity(item): item for item in override})
    return list(merged.values())
