# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turns a catalogue into the plain data that the roles bring to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils.plan import by_digest
from ansible_collections.memoryark.ops.plugins.module_utils.rolling import named_units
from ansible_collections.memoryark.ops.plugins.plugin_utils.checks import start_levels
from ansible_collections.memoryark.ops.plugins.plugin_utils.configs import render_configs
from ansible_collections.memoryark.ops.plugins.plugin_utils.instances import instances
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue, Service
from ansible_collections.memoryark.ops.plugins.plugin_utils.openings import openings
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import Problem, ProblemsError
from ansible_collections.memoryark.ops.plugins.plugin_utils.quadlet import (
    health_limit,
    refused_keys,
    render_check,
    render_units,
)

# The five of the specification: data and uploads hold the archive, the others serve it.
ROOT_DIRECTORIES = {"data": "0750", "uploads": "0750", "logs": "0755", "config": "0755", "backups": "0700"}


def build_release(
    catalogue: Catalogue, stack: Path, root: str, variables: Mapping[str, str]
) -> dict[str, Any]:
    """Return the release as plain data; raises ProblemsError."""
    quadlets, systemd_units = render_units(catalogue, root)
    problems = [Problem(name, message) for name, text in quadlets.items() for message in refused_keys(text)]
    levels = start_levels({name: service.depends_on for name, service in catalogue.services.items()})
    configs: dict[str, dict[str, str]] = {}
    try:
        configs = render_configs(stack, catalogue, variables)
    except ProblemsError as error:
        problems += error.problems
    problems += early_proxies(catalogue, configs, levels, stack.name)
    problems += [
        Problem(
            f"{stack.name}/{service.name}/config",
            f"is empty, and services.{service.name}.x-memoryark.config says how it is read anew.",
        )
        for service in catalogue.services.values()
        if service.config.live and configs and not configs.get(service.name)
    ]
    if problems:
        raise ProblemsError(problems)
    return {
        "root": root,
        "quadlets": quadlets,
        "systemd_units": systemd_units,
        "configs": configs,
        "services": [
            entry
            for level, names in enumerate(levels)
            for name in names
            for entry in containers(catalogue.services[name], catalogue, root, level)
        ],
        "archives": dict(catalogue.images.archives),
        "builds": [recipe.to_option() for recipe in catalogue.images.recipes.values()],
        "tags": dict(catalogue.tags),
        "networks": networks(catalogue),
        "openings": openings(catalogue),
        "directories": directories(catalogue),
        "volumes": sorted(volume.name for volume in catalogue.volumes.values() if not volume.directory),
        "secrets": list(catalogue.secret_names),
    }


def containers(service: Service, catalogue: Catalogue, root: str, level: int) -> list[dict[str, Any]]:
    """Return a service's containers as options of the release module, which starts levels in their order."""
    shared = {
        "name": service.name,
        "image": service.image,
        "level": level,
        "health_limit": health_limit(service.health),
        "monitor": service.update.monitor,
        "check": render_check(service, catalogue, root),
        "databases": database_paths(catalogue, service, root),
        "live": service.config.live,
        "rolling": service.rolling,
        "parallelism": service.update.parallelism,
        "delay": service.update.delay,
        "grace": service.stop_grace,
        "ports": sorted({route.port for route in service.routes}),
    }
    return [
        {**shared, "unit": instance.unit, "surge": instance.surge}
        for instance in instances(service, catalogue)
    ]


def early_proxies(
    catalogue: Catalogue,
    configs: Mapping[str, Mapping[str, str]],
    levels: Sequence[Sequence[str]],
    stack: str,
) -> list[Problem]:
    """Return the services that would send requests to containers which are started after them.

    A deployment gives a service its configuration when it is its turn; what that names must run by then.
    """
    level = {name: number for number, names in enumerate(levels) for name in names}
    owners = {
        instance.unit: service.name
        for service in catalogue.services.values()
        for instance in instances(service, catalogue)
    }
    return [
        Problem(
            f"{stack}/{proxy}/compose.yml: services.{proxy}.depends_on",
            f"it sends requests to {other}, which starts no earlier; add {other}.",
        )
        for proxy, files in configs.items()
        for other in sorted(
            {owners[unit] for text in files.values() for unit in named_units(text) if unit in owners}
        )
        if level[other] >= level[proxy]
    ]


def pin_tags(catalogue: Catalogue, tags: Mapping[str, str]) -> Catalogue:
    """Return the catalogue with digests in place of the tags of images, which ``tags`` gives by reference."""
    services = {
        name: replace(service, image=by_digest(f"{service.image}@{tags[service.image]}"))
        if service.image in tags
        else service
        for name, service in catalogue.services.items()
    }
    return replace(catalogue, services=services, tags=tags)


def database_paths(catalogue: Catalogue, service: Service, root: str) -> list[str]:
    """Return where a service's databases are on the host."""
    return [f"{root}/{catalogue.volumes[volume].directory}/{path}" for volume, path in service.databases]


def networks(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Return the networks as options of the networks module."""
    return [
        {key: value for key, value in asdict(network).items() if key not in {"key", "egress"}}
        | {"subnets": list(network.subnets)}
        for network in catalogue.networks.values()
    ]


def directories(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Return the directories as options of the volumes module, parents first."""
    wanted = {
        path: {"path": path, "owner": 0, "group": 0, "mode": mode} for path, mode in ROOT_DIRECTORIES.items()
    }
    for volume in catalogue.volumes.values():
        if volume.directory:
            wanted[volume.directory] = {
                "path": volume.directory,
                "owner": volume.owner,
                "group": volume.group,
                "mode": volume.mode,
                "synchronous": volume.synchronous,
            }
    return [wanted[path] for path in sorted(wanted)]


def reserved_memory(catalogue: Catalogue) -> int:
    """Return the bytes that are reserved for containers at the most, while one of them stands in included."""
    services = catalogue.services.values()
    extra = max((service.reserved_memory for service in services if service.start_first), default=0)
    return sum(service.reserved_memory * service.replicas for service in services) + extra


def published_ports(catalogue: Catalogue) -> list[int]:
    """Return the TCP ports that containers publish."""
    return sorted(
        {
            port.published
            for service in catalogue.services.values()
            for port in service.ports
            if port.protocol == "tcp"
        }
    )


def public_names(catalogue: Catalogue) -> list[str]:
    """Return the public host names."""
    return sorted({route.host for service in catalogue.services.values() for route in service.routes})
