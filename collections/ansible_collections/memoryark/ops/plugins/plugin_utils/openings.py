# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the host's firewall opens for a catalogue."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from ansible_collections.memoryark.ops.plugins.module_utils.nftables import SETS, Openings
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue, Network, Port


def openings(catalogue: Catalogue) -> Openings:
    """Return the elements of the firewall's sets: all that containers may do beyond their own network."""
    found: dict[str, set[str]] = {name: set() for name in SETS}
    for name, element in _elements(catalogue):
        found[name].add(element)
    return {name: sorted(members) for name, members in found.items()}


def _elements(catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    for network in catalogue.networks.values():
        bridge = network.interface
        yield "bridges", bridge
        yield "inside", f"{bridge} . {bridge}"
        for address in gateways(network):
            yield f"resolvers_ipv{address.version}", f"{bridge} . {address}"
        for protocol, number in network.egress:
            yield "egress", f"{bridge} . {protocol} . {number}"
    for service in catalogue.services.values():
        ports = list(seen_from_outside(service.ports))
        for port in ports:
            yield f"published_{port.protocol}", str(port.published)
        attached = (catalogue.networks[one.network] for one in service.networks if ports)
        # Podman publishes nothing on an internal network.
        for network in (network for network in attached if not network.internal):
            yield "public", network.interface


def gateways(network: Network) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return the addresses of the bridge, where Podman's name server listens: the first of each subnet."""
    return [ipaddress.ip_network(subnet).network_address + 1 for subnet in network.subnets]


def seen_from_outside(ports: Iterable[Port]) -> Iterator[Port]:
    """Yield the ports that are not published for the host alone."""
    for port in ports:
        if not port.host_ip or not ipaddress.ip_address(port.host_ip).is_loopback:
            yield port
