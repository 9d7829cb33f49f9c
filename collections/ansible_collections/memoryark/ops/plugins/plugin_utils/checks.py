# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a schema cannot say: rules between services, and the platform's own demands on each of them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils.store import OWN_UNITS
from ansible_collections.memoryark.ops.plugins.plugin_utils.instances import (
    BLOCK,
    fixed_addresses,
    leased_subnet,
    suffixes,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.merge import SHAPES
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import (
    Catalogue,
    Network,
    Port,
    Service,
    words,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import Problem, suggestion
from ansible_collections.memoryark.ops.plugins.plugin_utils.quantities import MAX_PORT

# Source of the reference forms: the OCI Distribution Specification, "Pulling manifests".
_PINNED = re.compile(r"[a-z0-9.\-]+(:[0-9]+)?(/[a-z0-9._\-]+)+(:[\w.\-]+)?@sha256:[0-9a-f]{64}")
# Without a dot or a port the first part is no registry, and nothing is guessed.
_TAGGED = re.compile(
    r"([a-z0-9\-]*\.[a-z0-9.\-]+(:[0-9]+)?|[a-z0-9\-]+:[0-9]+)(/[a-z0-9._\-]+)+:\w[\w.\-]{0,127}", re.ASCII
)

SIGNED_LIMIT = 2 * 2**20
_EVERY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - what Compose files say, nothing is bound

Where = Callable[[str, str], str]
"""Names file and key for a service and a path below it."""


def check_raw(name: str, raw: Mapping[str, Any], where: Where) -> list[Problem]:
    """Return what every service must say and this one does not, and what it says that means nothing."""
    found = {**_missing(name, raw), **_meaningless(raw)}
    return [Problem(where(name, path), what) for path, what in found.items()]


def check_raw_network(key: str, raw: Mapping[str, Any], where: Where) -> list[Problem]:
    """As ``check_raw``, of a network."""
    entries = lookup(raw, "ipam.config") or []
    found = {}
    if not raw.get("name"):
        found["name"] = "is missing; it is the name that Podman has for the network"
    if not entries:
        found["ipam.config"] = "is missing; write a list with a subnet, such as [{subnet: 10.89.9.0/24}]"
    if sum("ip_range" in entry for entry in entries) > 1:
        found["ipam.config"] = "has several ip_ranges; one network has one"
    return [Problem(where("", f"networks.{key}.{path}"), f"{what}.") for path, what in found.items()]


def check_raw_volume(key: str, raw: Mapping[str, Any] | None, where: Where) -> list[Problem]:
    """As ``check_raw``, of a volume."""
    settings = (raw or {}).get("x-memoryark")
    if settings is None or settings.get("directory"):
        return []
    what = "'directory' is missing; without x-memoryark Podman itself keeps the volume."
    return [Problem(where("", f"volumes.{key}.x-memoryark"), what)]


def _missing(name: str, raw: Mapping[str, Any]) -> dict[str, str]:
    or_build = ", or to the word build and the server builds it" if raw.get("build") else ""
    required = {
        "image": f"the image is missing; set memoryark_images.{name} to a reference with a digest{or_build}",
        "deploy.resources.limits.cpus": "the limit is missing; every container has one, as in cpus: '0.5'",
        "deploy.resources.limits.memory": "the limit is missing; every container has one, as in memory: 256M",
        "healthcheck.test": "the health check is missing; a deployment waits for it",
        "x-memoryark.id_range": "the range is missing; give each service a number of its own",
    }
    return {path: what for path, what in required.items() if lookup(raw, path) is None}


def _meaningless(raw: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    test = lookup(raw, "healthcheck.test")
    if test is not None and not _is_test(test):
        found["healthcheck.test"] = (
            "has to be a text for a shell, [CMD, program, …] or [CMD-SHELL, text]; a deployment waits for it"
        )
    for key in ("command", "entrypoint"):
        if raw.get(key) is not None and not _words(raw[key]):
            found[key] = "is empty or has a quote that does not end; leave it out for the image's own"
    for path in ("environment", "sysctls", "extra_hosts", "build.args"):
        for name, value in SHAPES[path.rpartition(".")[2]](lookup(raw, path) or {}).items():
            if value is None:
                found[f"{path}.{name}"] = "the value is missing; the host's own environment is not passed on"
    return found


def _is_test(test: Any) -> bool:
    if isinstance(test, str):
        return bool(test.strip())
    head, *rest = test or [""]
    if head == "CMD-SHELL":
        return len(rest) == 1 and bool(rest[0].strip())
    return head == "CMD" and bool(rest)


def _words(value: Any) -> tuple[str, ...]:
    try:
        return words(value)
    except ValueError:
        return ()


def lookup(tree: Any, path: str) -> Any:
    """Return what stands at a dotted ``path`` below ``tree``, None if nothing does."""
    for key in path.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def check_catalogue(
    catalogue: Catalogue, names: Collection[str], secrets: Collection[str], where: Where
) -> list[Problem]:
    """Return every breach of a rule that needs more than one place to see.

    ``names`` are all services there are, also those that ``catalogue`` lacks because they are incomplete.
    """
    found: list[Problem] = []
    for service in catalogue.services.values():
        if f"{service.unit}.service" in OWN_UNITS:
            what = f"the project has a unit {service.unit} of its own; give the service another name."
            found.append(Problem(where("", f"services.{service.name}"), what))
        found += _check_service(service, catalogue, names, secrets, where)
    for what, key, identity in _UNIQUE:
        found += _check_unique(catalogue, what, key, identity, where)
    found += _check_cycles(catalogue, where)
    found += _check_subnets(catalogue, where)
    return found


def _check_service(
    service: Service, catalogue: Catalogue, names: Collection[str], secrets: Collection[str], where: Where
) -> Iterator[Problem]:
    def problem(path: str, what: str) -> Problem:
        return Problem(where(service.name, path), what)

    local = service.image in catalogue.images.references.values()
    if not (local or _PINNED.fullmatch(service.image) or _TAGGED.fullmatch(service.image)):
        yield problem(
            "image",
            f"'{service.image}' has neither digest nor tag; write registry/name@sha256:… "
            "with all 64 hexadecimal digits, or registry/name:tag",
        )
    yield from _check_references(service, catalogue, names, problem)
    for secret in service.secret_names:
        if secret not in secrets:
            yield problem("secrets", f"secret '{secret}' has no value; set memoryark_secrets.{secret}")
    if service.config.live and not any(mount.kind == "config" for mount in service.mounts):
        yield problem("x-memoryark.config", "there is no configuration to read anew; mount it in volumes")
    if service.config.reload and service.config.reload_signal:
        yield problem("x-memoryark.config", "write either reload or reload_signal")
    if service.rolling:
        yield from _check_rolling(service, catalogue, problem)
    yield from _check_routes(service, catalogue, problem)
    yield from _check_ports(service, problem)
    yield from _check_addresses(service, catalogue, problem)
    yield from _check_hardening(service, problem)


def _check_routes(
    service: Service, catalogue: Catalogue, problem: Callable[[str, str], Problem]
) -> Iterator[Problem]:
    path = "x-memoryark.routes"
    for route in service.routes:
        if route.line_signature and route.body_size > SIGNED_LIMIT:
            yield problem(path, "a body that LINE signs is held in memory; its body_size is 2M at the most")
        if not route.body_size:
            yield problem(path, "body_size is 0, which nginx takes for no limit; write one")
    proxies = [other for other in catalogue.services.values() if is_proxy(other) and other != service]
    met = {attached.network for proxy in proxies for attached in proxy.networks}
    if service.routes and proxies and not met & {attached.network for attached in service.networks}:
        names = " and ".join(sorted(proxy.name for proxy in proxies))
        yield problem(path, f"no request would arrive: {names} is on no network with it")


def is_proxy(service: Service) -> bool:
    """Whether a service takes the requests for others: it is told anew where they are, and has the ports."""
    return service.config.live and bool(service.ports)


def _check_ports(service: Service, problem: Callable[[str, str], Problem]) -> Iterator[Problem]:
    for port in service.ports:
        for number in (port.published, port.target):
            if not 0 < number <= MAX_PORT:
                yield problem("ports", f"there is no port {number}")
        if port.host_ip and _version(port.host_ip) is None:
            yield problem("ports", f"'{port.host_ip}' is not an address of the host")


def _check_addresses(
    service: Service, catalogue: Catalogue, problem: Callable[[str, str], Problem]
) -> Iterator[Problem]:
    for attached in service.networks:
        network = catalogue.networks.get(attached.network)
        for version, address in ((4, attached.ipv4), (6, attached.ipv6)):
            if address and _version(address) != version:
                yield problem("networks", f"'{address}' is not an IPv{version} address")
            elif address and network and not _within(address, network):
                yield problem("networks", f"{address} is in no subnet of network {network.key}")


def _version(address: str) -> int | None:
    """Return the version of the protocol that an address is of, None if it is none."""
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return None


def _within(address: str, network: Network) -> bool:
    """Whether an address is in one of the subnets; those that are none are reported elsewhere."""
    found = []
    for subnet in network.subnets:
        with suppress(ValueError):
            found.append(ipaddress.ip_network(subnet))
    return any(ipaddress.ip_address(address) in subnet for subnet in found)


def _check_references(
    service: Service, catalogue: Catalogue, names: Collection[str], problem: Callable[[str, str], Problem]
) -> Iterator[Problem]:
    """What a service names is there."""
    for attachment in service.networks:
        if attachment.network not in catalogue.networks:
            yield problem(
                "networks",
                f"there is no network '{attachment.network}'."
                + suggestion(attachment.network, catalogue.networks),
            )
    for dependency in service.depends_on:
        if dependency not in names:
            yield problem("depends_on", f"there is no service '{dependency}'.{suggestion(dependency, names)}")
    for mount in service.mounts:
        if mount.kind == "volume" and mount.source not in catalogue.volumes:
            yield problem(
                "volumes",
                f"there is no volume '{mount.source}'.{suggestion(mount.source, catalogue.volumes)}",
            )
        if re.search(r"[\s\"'\\%$]", mount.target):
            # Podman's generator takes quotes here for a part of the path.
            yield problem("volumes", f"'{mount.target}' has a character that no place of a volume may have")
        if mount.kind == "config" and (mount.source != f"./{service.name}/config" or not mount.read_only):
            yield problem(
                "volumes",
                f"'{mount.source}' cannot be mounted; a service mounts named volumes, "
                f"and its own folder as ./{service.name}/config:TARGET:ro",
            )
    directories = {volume.key for volume in catalogue.volumes.values() if volume.directory}
    directories &= {mount.source for mount in service.mounts}
    for source in sorted({source for source, _path in service.databases} - directories):
        yield problem("x-memoryark.databases", f"'{source}' is no volume with a directory that it mounts")


def _check_rolling(
    service: Service, catalogue: Catalogue, problem: Callable[[str, str], Problem]
) -> Iterator[Problem]:
    """Two containers of a service can run at the same time, and a proxy can tell them apart."""
    path = "deploy.replicas" if service.replicas > 1 else "deploy.update_config.order"
    alone = {
        "ports": bool(service.ports),
        "databases": bool(service.databases),
        "addresses": any(one.ipv4 or one.ipv6 for one in service.networks),
    }
    for what in (what for what, claimed in alone.items() if claimed):
        yield problem(path, f"is not possible: only one container at a time can have its {what}")
    for mount in service.mounts:
        volume = catalogue.volumes.get(mount.source)
        if volume and not mount.read_only and not volume.shared:
            yield problem(
                path,
                f"is not possible: two containers would write to volume {mount.source}; "
                "declare it with x-memoryark.shared if the program can bear that",
            )
    if service.routes:
        yield from _check_room(service, catalogue, lambda what: problem(path, what))


def _check_room(
    service: Service, catalogue: Catalogue, problem: Callable[[str], Problem]
) -> Iterator[Problem]:
    """Wherever a proxy can meet a rolling service, each of its containers has an address that stays."""
    proxies = [other for other in catalogue.services.values() if other.config.live and other != service]
    met = {attached.network for proxy in proxies for attached in proxy.networks} & set(catalogue.networks)
    for key in (attached.network for attached in service.networks if attached.network in met):
        room = len(fixed_addresses(service, catalogue.networks[key]))
        if room <= service.replicas:
            yield problem(
                f"needs {service.replicas + 1} addresses after the ip_range of network {key}, where there "
                f"are {room}; each id_range has {BLOCK}: give the network an ip_range with more room after "
                "it, or the service a smaller id_range"
            )


def _check_hardening(service: Service, problem: Callable[[str, str], Problem]) -> Iterator[Problem]:
    """Hardening stands in the Compose file itself, so that it holds on every engine that runs it."""
    if service.cap_drop != ("ALL",):
        yield problem("cap_drop", "must be [ALL]; give single capabilities back with cap_add")
    if service.security_opt != ("no-new-privileges:true",):
        yield problem("security_opt", "must be ['no-new-privileges:true']")
    if not service.read_only:
        yield problem("read_only", "must be true; give writable places with volumes and tmpfs")
    if not service.memory:
        yield problem("deploy.resources.limits.memory", "is 0, which is no limit; write one, as in 256M")
    if service.reserved_memory > service.memory:
        yield problem("deploy.resources.reservations.memory", "is above the limit")
    if service.reserved_cpus > service.cpus:
        yield problem("deploy.resources.reservations.cpus", "is above the limit")


def _ports(service: Service, catalogue: Catalogue) -> list[str]:
    """One port may be published at several addresses, but not beside one that is published at all of them."""
    return [
        f"{port.published}/{port.protocol}"
        + ("" if _is_everywhere(port, catalogue) else f" of {port.host_ip}")
        for port in service.ports
    ]


def _is_everywhere(port: Port, catalogue: Catalogue) -> bool:
    """Whether a port, or another with its number, is published at all addresses."""
    if port.host_ip in _EVERY_ADDRESS:
        return True
    every = (other for service in catalogue.services.values() for other in service.ports)
    number = (port.published, port.protocol)
    return any(
        (other.published, other.protocol) == number and other.host_ip in _EVERY_ADDRESS for other in every
    )


def _addresses(service: Service, catalogue: Catalogue) -> list[str]:
    own = [address for attached in service.networks for address in (attached.ipv4, attached.ipv6) if address]
    networks = {one.network for one in service.networks} & set(catalogue.networks) if service.rolling else ()
    return own + [one for key in networks for one in fixed_addresses(service, catalogue.networks[key])]


_UNIQUE: list[tuple[str, str, Callable[[Service, Catalogue], list[str]]]] = [
    ("host port", "ports", _ports),
    (
        "container name",
        "container_name",
        lambda service, _catalogue: [service.container_name + suffix for suffix in suffixes(service)],
    ),
    (
        "unit",
        "deploy.replicas",
        lambda service, _catalogue: [service.unit + suffix for suffix in suffixes(service)],
    ),
    ("id range", "x-memoryark.id_range", lambda service, _catalogue: [str(service.id_range)]),
    ("address", "networks", _addresses),
    (
        "route",
        "x-memoryark.routes",
        lambda service, _catalogue: [f"{route.host} {route.path}" for route in service.routes],
    ),
]


def _check_unique(
    catalogue: Catalogue,
    what: str,
    key: str,
    identity: Callable[[Service, Catalogue], list[str]],
    where: Where,
) -> Iterator[Problem]:
    owners: dict[str, list[str]] = {}
    for service in catalogue.services.values():
        for value in identity(service, catalogue):
            owners.setdefault(value, []).append(service.name)
    for value, names in owners.items():
        if len(names) > 1:
            others = " and ".join(sorted(set(names))) + (" twice" if len(set(names)) == 1 else "")
            yield Problem(where(sorted(names)[-1], key), f"{what} '{value}' is claimed by {others}.")


def _check_cycles(catalogue: Catalogue, where: Where) -> Iterator[Problem]:
    try:
        start_levels({name: service.depends_on for name, service in catalogue.services.items()})
    except CycleError as error:
        yield Problem(where(error.cycle[0], "depends_on"), f"the services wait for each other: {error}.")


def _check_subnets(catalogue: Catalogue, where: Where) -> Iterator[Problem]:
    parsed: list[tuple[str, ipaddress.IPv4Network | ipaddress.IPv6Network]] = []
    for network in catalogue.networks.values():
        if network.ip_range and leased_subnet(network) is None:
            what = f"ip_range {network.ip_range} is no part of one of its IPv4 subnets."
            yield Problem(where("", f"networks.{network.key}.ipam"), what)
        if network.ipv6 != any(":" in subnet for subnet in network.subnets):
            what = "write enable_ipv6 and an IPv6 subnet, both or none: Podman has one only with the other."
            yield Problem(where("", f"networks.{network.key}"), what)
        if network.internal and network.egress:
            what = "an internal network has no way out; take internal away, or egress."
            yield Problem(where("", f"networks.{network.key}.x-memoryark"), what)
        for _protocol, port in network.egress:
            if port > MAX_PORT:
                yield Problem(where("", f"networks.{network.key}.x-memoryark"), f"there is no port {port}.")
        for subnet in network.subnets:
            try:
                parsed.append((network.key, ipaddress.ip_network(subnet)))
            except ValueError as error:
                yield Problem(where("", f"networks.{network.key}.ipam"), f"{error}.")
    for index, (key, mine) in enumerate(parsed):
        for other_key, other in parsed[:index]:
            if mine.version == other.version and mine.overlaps(other):
                yield Problem(
                    where("", f"networks.{key}.ipam"), f"{mine} overlaps {other} of network {other_key}."
                )


class CycleError(ValueError):
    """Services that depend on each other in a circle."""

    def __init__(self, cycle: list[str]) -> None:
        self.cycle = cycle
        super().__init__(" → ".join([*cycle, cycle[0]]))


def start_levels(dependencies: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the names in levels: each level needs only earlier ones. Raises CycleError.

    Names that are depended on but are not keys are ignored; they are reported elsewhere.
    """
    waiting = {name: {d for d in needed if d in dependencies} for name, needed in dependencies.items()}
    levels: list[list[str]] = []
    while waiting:
        ready = sorted(name for name, needed in waiting.items() if not needed)
        if not ready:
            raise CycleError(_find_cycle(waiting))
        levels.append(ready)
        waiting = {name: needed - set(ready) for name, needed in waiting.items() if name not in ready}
    return levels


def _find_cycle(waiting: Mapping[str, Collection[str]]) -> list[str]:
    path = [min(waiting)]
    while (following := min(waiting[path[-1]])) not in path:
        path.append(following)
    return path[path.index(following) :]
