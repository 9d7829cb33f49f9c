# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Renders the configuration files that stand in the services' folders."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from ansible_collections.memoryark.ops.plugins.plugin_utils.edge import (
    FORGEABLE_HEADERS,
    IDENTITY_HEADER,
    UNSAFE_PATH,
    access,
    rates,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.instances import (
    meeting_point,
    steady,
    upstreams,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue, Network, Route, Service
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import Problem, ProblemsError

TEMPLATE_SUFFIX = ".j2"


def name_server(network: Network) -> str:
    """Return the IPv4 address of the network's bridge, where its name server listens."""
    subnets = [ipaddress.ip_network(subnet) for subnet in network.subnets]
    return str(next(next(subnet.hosts()) for subnet in subnets if subnet.version == 4))


def routes_by_host(catalogue: Catalogue) -> dict[str, list[tuple[Service, Route]]]:
    """Return every public route under its host name, longest path first."""
    hosts: dict[str, list[tuple[Service, Route]]] = {}
    for service in catalogue.services.values():
        for route in service.routes:
            hosts.setdefault(route.host, []).append((service, route))
    return {
        host: sorted(routes, key=lambda pair: pair[1].path, reverse=True)
        for host, routes in sorted(hosts.items())
    }


def longest_timeout(catalogue: Catalogue) -> float:
    """Return the seconds that the slowest request of a route may take, WebSockets aside."""
    routes = (route for service in catalogue.services.values() for route in service.routes)
    return max((route.timeout for route in routes if not route.websocket), default=60.0)


def render_configs(
    stack: Path, catalogue: Catalogue, variables: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return file texts by service and path below its ``config`` folder.

    Templates see ``catalogue``, ``service``, ``routes_by_host``, ``name_server``, ``longest_timeout``,
    ``variables``, what ``instances`` has of ``upstreams``, ``meeting_point`` and ``steady``, and what
    ``edge`` has as ``access``, ``identity_header``, ``forgeable_headers``, ``unsafe_path`` and ``rates``.
    Raises ProblemsError for templates that do not render.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(stack),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - these are configuration files, not pages
    )
    context: dict[str, Any] = {
        "catalogue": catalogue,
        "variables": variables,
        "routes_by_host": routes_by_host(catalogue),
        "name_server": name_server,
        "longest_timeout": longest_timeout,
        "upstreams": upstreams,
        "meeting_point": meeting_point,
        "steady": steady,
        "access": access(variables),
        "identity_header": IDENTITY_HEADER,
        "forgeable_headers": FORGEABLE_HEADERS,
        "unsafe_path": UNSAFE_PATH,
        "rates": rates,
    }
    rendered: dict[str, dict[str, str]] = {}
    problems: list[Problem] = []
    for service in catalogue.services.values():
        if not any(mount.kind == "config" for mount in service.mounts):
            continue
        folder = stack / service.name / "config"
        rendered[service.name] = {}
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = str(file.relative_to(folder))
            try:
                if name.endswith(TEMPLATE_SUFFIX):
                    template = environment.get_template(str(file.relative_to(stack)))
                    text = template.render(context, service=service)
                else:
                    text = file.read_text(encoding="utf-8")
            except (jinja2.TemplateError, ValueError, TypeError, AttributeError) as error:
                problems.append(
                    Problem(f"{stack.name}/{file.relative_to(stack)}", f"cannot be rendered: {error}.")
                )
                continue
            rendered[service.name][name.removesuffix(TEMPLATE_SUFFIX)] = text
    if problems:
        raise ProblemsError(problems)
    return rendered
