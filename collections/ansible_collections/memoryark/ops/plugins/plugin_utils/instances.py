# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The containers of a service: their units, their names, and the addresses at which a proxy finds them.

A service that serves on while it is changed has addresses that stay, so that a proxy can be told of each of
its containers. With ``order: start-first`` it has one container more, which runs only during a change.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from ansible_collections.memoryark.ops.plugins.module_utils.release import SURGE
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue, Network, Service

# Fixed addresses of one service on a network: the one that stands in, and up to seven more.
BLOCK = 8


@dataclass(frozen=True)
class Instance:
    """One container of a service; ``addresses`` are fixed ones by the key of the network."""

    unit: str
    container: str
    addresses: dict[str, str]
    surge: bool = False


def suffixes(service: Service) -> list[str]:
    """Return what follows a service's name in those of its containers and units."""
    more = [f"-{number}" for number in range(2, service.replicas + 1)]
    return ["", *more, *([SURGE] if service.start_first else [])]


def instances(service: Service, catalogue: Catalogue) -> list[Instance]:
    """Return the containers of a service; the last is the one that stands in, if there is such."""
    blocks = {
        attached.network: fixed_addresses(service, catalogue.networks[attached.network])
        for attached in service.networks
        if service.rolling
    }
    # The one that stands in keeps its address, and so do the others, when there are more or fewer of them.
    slots = {suffix: 0 if suffix == SURGE else slot for slot, suffix in enumerate(suffixes(service), start=1)}
    return [
        Instance(
            unit=service.unit + suffix,
            container=service.container_name + suffix,
            addresses={network: block[slot] for network, block in blocks.items() if slot < len(block)},
            surge=suffix == SURGE,
        )
        for suffix, slot in slots.items()
    ]


def steady(service: Service, catalogue: Catalogue) -> list[Instance]:
    """Return the containers that always run."""
    return [instance for instance in instances(service, catalogue) if not instance.surge]


def fixed_addresses(service: Service, network: Network) -> list[str]:
    """Return the addresses on a network that are this service's alone: a block after ``ip_range``.

    Empty where the network has no such range, or no room for a block of this service's number.
    """
    subnet = leased_subnet(network)
    if subnet is None:
        return []
    last = ipaddress.IPv4Network(network.ip_range).broadcast_address
    block = (last + 1 + (service.id_range - 1) * BLOCK + slot for slot in range(BLOCK))
    return [str(address) for address in block if address < subnet.broadcast_address]


def leased_subnet(network: Network) -> ipaddress.IPv4Network | None:
    """Return the subnet of which ``ip_range`` is a part, None without one."""
    try:
        leased = ipaddress.IPv4Network(network.ip_range)
        subnets = [ipaddress.ip_network(subnet) for subnet in network.subnets]
    except ValueError:
        return None
    around = (one for one in subnets if isinstance(one, ipaddress.IPv4Network) and leased.subnet_of(one))
    return next(around, None)


@dataclass(frozen=True)
class Upstream:
    """What a proxy sends the requests of one route to."""

    name: str
    port: int
    servers: tuple[tuple[str, Instance], ...]
    """Address and container."""


def upstreams(proxy: Service, catalogue: Catalogue) -> list[Upstream]:
    """Return the services with fixed addresses to which ``proxy`` sends requests, once for each port."""
    found = []
    for service in catalogue.services.values():
        network = meeting_point(proxy, service, catalogue)
        if not network:
            continue
        servers = tuple((instance.addresses[network], instance) for instance in instances(service, catalogue))
        for port in sorted({route.port for route in service.routes}):
            found.append(Upstream(f"{service.name}-{port}", port, servers))
    return found


def meeting_point(proxy: Service, service: Service, catalogue: Catalogue) -> str:
    """Return the network on which ``proxy`` finds all containers of a rolling service at fixed addresses."""
    if not service.rolling:
        return ""
    own = {attached.network for attached in proxy.networks}
    shared = [attached.network for attached in service.networks if attached.network in own]
    rooms = {key: len(fixed_addresses(service, catalogue.networks[key])) for key in shared}
    return next((key for key, room in rooms.items() if room > service.replicas), "")
