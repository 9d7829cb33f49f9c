# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The catalogue in its normal form: what the Compose files mean, without their many spellings."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils.host import PREFIX
from ansible_collections.memoryark.ops.plugins.module_utils.units import unit_name
from ansible_collections.memoryark.ops.plugins.plugin_utils.merge import extra_hosts, keyed, named
from ansible_collections.memoryark.ops.plugins.plugin_utils.quantities import (
    parse_cpus,
    parse_duration,
    parse_size,
)

DEFAULT_PIDS = 256
# Seconds; Compose's own default for update_config.monitor is 0s, Docker's is 5s.
DEFAULT_MONITOR = 5.0
# Requests a second of one client: a page of thumbnails for a congregation behind one address.
DEFAULT_RATE = 100


@dataclass(frozen=True)
class Network:
    """A Podman network; ``key`` is how services name it, ``name`` how Podman does.

    Containers without an address of their own get one from ``ip_range``, if there is one. To outside of the
    host they may connect at the protocols and ports of ``egress`` only.
    """

    key: str
    name: str
    interface: str
    internal: bool
    ipv6: bool
    subnets: tuple[str, ...]
    ip_range: str = ""
    egress: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Volume:
    """A place for data: a directory below the root, or a volume that Podman keeps if there is none.

    Several containers may write to one that is ``shared``.
    """

    key: str
    name: str
    directory: str = ""
    owner: int = 0
    group: int = 0
    mode: str = "0750"
    synchronous: bool = False
    shared: bool = False


@dataclass(frozen=True)
class Mount:
    """``kind`` is ``volume`` (``source`` is a volume's key) or ``config`` (a folder of the catalogue)."""

    kind: str
    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class Port:
    published: int
    target: int
    protocol: str = "tcp"
    host_ip: str = ""


@dataclass(frozen=True)
class SecretMount:
    source: str
    target: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o400


@dataclass(frozen=True)
class Attachment:
    """How a service is attached to a network."""

    network: str
    aliases: tuple[str, ...] = ()
    ipv4: str = ""
    ipv6: str = ""


@dataclass(frozen=True)
class Health:
    """A health check; times in seconds. Defaults are Compose's."""

    test: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0
    start_interval: float = 5.0


@dataclass(frozen=True)
class RestartPolicy:
    """Compose's restart policy; times in seconds, ``max_attempts`` None or 0 means for ever."""

    condition: str = "any"
    delay: float = 5.0
    max_attempts: int | None = None
    window: float = 0.0


@dataclass(frozen=True)
class Update:
    """Compose's ``update_config``; times in seconds."""

    order: str = "stop-first"
    parallelism: int = 1
    delay: float = 0.0
    monitor: float = DEFAULT_MONITOR


@dataclass(frozen=True)
class Config:
    """How a service's configuration files are checked, and how it is made to read them anew.

    That is by a command in its container, ``reload``, or by a ``reload_signal``.
    """

    check: tuple[str, ...] = ()
    reload_signal: str = ""
    reload: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """Whether it can read them anew at all."""
        return bool(self.reload_signal or self.reload)


@dataclass(frozen=True)
class Route:
    """A path of a host name that the proxy sends to a port of the service.

    ``access`` is ``public``, ``members``, ``operators`` or ``closed``; ``rate`` the requests a second that
    one client may make. With ``identity`` the service is told who the visitor is. With ``line_signature``
    only bodies that LINE has signed come through. What comes from a route that is ``untrusted`` was made by
    others: a browser shows it and runs nothing of it.
    """

    host: str
    path: str
    port: int
    websocket: bool = False
    body_size: int = 2**20
    timeout: float = 60.0
    access: str = "public"
    rate: int = DEFAULT_RATE
    identity: bool = False
    line_signature: bool = False
    untrusted: bool = False


@dataclass(frozen=True)
class Service:
    """One container, or several that are the same."""

    name: str
    image: str
    container_name: str
    id_range: int
    health: Health
    cpus: float
    memory: int
    pids: int = DEFAULT_PIDS
    reserved_cpus: float = 0.0
    reserved_memory: int = 0
    restart: RestartPolicy = RestartPolicy()
    replicas: int = 1
    update: Update = Update()
    config: Config = Config()
    databases: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secret_environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = ""
    hostname: str = ""
    networks: tuple[Attachment, ...] = ()
    ports: tuple[Port, ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[str, ...] = ()
    secrets: tuple[SecretMount, ...] = ()
    depends_on: tuple[str, ...] = ()
    stop_grace: float = 10.0
    stop_signal: str = ""
    init: bool = False
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    ulimits: Mapping[str, str] = field(default_factory=dict)
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    shm_size: int = 0
    routes: tuple[Route, ...] = ()
    metrics_port: int = 0
    metrics_path: str = "/metrics"

    @property
    def unit(self) -> str:
        """The name that its systemd unit has, without ``.service``."""
        return unit_name(self.name)

    @property
    def start_first(self) -> bool:
        """Whether a new container runs before the old one stops."""
        return self.update.order == "start-first"

    @property
    def rolling(self) -> bool:
        """Whether it serves on while it is changed."""
        return self.replicas > 1 or self.start_first

    @property
    def secret_names(self) -> tuple[str, ...]:
        """The secrets it uses in any way."""
        return tuple(sorted({*self.secret_environment.values(), *(use.source for use in self.secrets)}))


@dataclass(frozen=True)
class File:
    """A file of a build context."""

    content: bytes
    executable: bool


@dataclass(frozen=True)
class Recipe:
    """How the host builds ``image``: on ``base``, which the build argument ``base_argument`` names.

    Without ``base`` it is Debian itself.
    """

    image: str
    base: str = ""
    base_argument: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    containerfile: str = ""
    context: Mapping[str, File] = field(default_factory=dict)

    def to_option(self) -> dict[str, Any]:
        """Return it as the release module takes it."""
        return {
            "image": self.image,
            "base": self.base,
            "base_argument": self.base_argument,
            "arguments": dict(self.arguments),
            "containerfile": self.containerfile,
            "context": {
                name: {"content": base64.b64encode(file.content).decode(), "executable": file.executable}
                for name, file in self.context.items()
            },
        }


@dataclass
class LocalImages:
    """References by service, paths of archives by reference, and recipes by the image that they make."""

    references: dict[str, str] = field(default_factory=dict)
    archives: dict[str, str] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)


@dataclass(frozen=True)
class Catalogue:
    """``tags`` are digests by the references with a tag for which they stand."""

    services: Mapping[str, Service]
    networks: Mapping[str, Network]
    volumes: Mapping[str, Volume]
    images: LocalImages = field(default_factory=LocalImages)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def secret_names(self) -> tuple[str, ...]:
        """Every secret that some service uses."""
        return tuple(sorted({name for service in self.services.values() for name in service.secret_names}))


def strings(value: Any) -> tuple[str, ...]:
    """Return a Compose text-or-list as texts, one for each entry."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)


def words(value: Any) -> tuple[str, ...]:
    """Return ``command`` or ``entrypoint`` as an argument vector; a text is split as a shell splits it."""
    return tuple(shlex.split(value)) if isinstance(value, str) else strings(value)


def scalar(value: Any) -> str:
    """Render a YAML scalar as Compose does for environment variables and labels, of which none is empty."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def health_test(value: Any) -> tuple[str, ...]:
    """Return ``healthcheck.test`` as an argument vector."""
    if isinstance(value, str):
        return ("/bin/sh", "-c", value)
    head, *rest = strings(value)
    return tuple(rest) if head == "CMD" else ("/bin/sh", "-c", rest[0] if rest else "")


def parse_network(key: str, raw: Mapping[str, Any]) -> Network:
    """Return the normal form of one network that passed the schema."""
    return Network(
        key=key,
        name=raw["name"],
        interface=raw.get("driver_opts", {}).get("com.docker.network.bridge.name", f"ark-{key}"[:15]),
        internal=raw.get("internal", False),
        ipv6=raw.get("enable_ipv6", False),
        subnets=tuple(entry["subnet"] for entry in raw["ipam"]["config"]),
        ip_range=next((entry["ip_range"] for entry in raw["ipam"]["config"] if "ip_range" in entry), ""),
        egress=tuple(parse_egress(one) for one in raw.get("x-memoryark", {}).get("egress", ())),
    )


def parse_egress(raw: str) -> tuple[str, int]:
    """Return protocol and port of an ``egress`` entry."""
    protocol, _slash, port = raw.partition("/")
    return protocol, int(port)


def parse_volume(key: str, raw: Mapping[str, Any] | None) -> Volume:
    """Return the normal form of one volume that passed the schema."""
    raw = raw or {}
    return Volume(key=key, name=raw.get("name", PREFIX + key), **raw.get("x-memoryark", {}))


def parse_mount(raw: Any) -> Mount:
    """Return the normal form of a ``volumes`` entry."""
    if isinstance(raw, str):
        source, target, *options = raw.split(":")
        read_only = options == ["ro"]
    else:
        source, target, read_only = raw["source"], raw["target"], raw.get("read_only", False)
    return Mount("config" if source.startswith(("./", "/")) else "volume", source, target, read_only)


def parse_port(raw: Any) -> Port:
    """Return the normal form of a ``ports`` entry."""
    if isinstance(raw, Mapping):
        return Port(int(raw["published"]), raw["target"], raw.get("protocol", "tcp"), raw.get("host_ip", ""))
    address, _slash, protocol = raw.partition("/")
    rest, _colon, target = address.rpartition(":")
    host_ip, _colon, published = rest.rpartition(":")
    return Port(int(published), int(target), protocol or "tcp", host_ip.strip("[]"))


def parse_secret(raw: Any) -> SecretMount:
    """Return the normal form of a ``secrets`` entry."""
    if isinstance(raw, str):
        return SecretMount(raw, raw)
    return SecretMount(
        source=raw["source"],
        target=raw.get("target", raw["source"]),
        uid=int(raw.get("uid", 0)),
        gid=int(raw.get("gid", 0)),
        mode=raw.get("mode", 0o400),
    )


def parse_networks(raw: Any) -> tuple[Attachment, ...]:
    """Return the normal form of a service's ``networks``."""
    return tuple(
        Attachment(
            network=name,
            aliases=tuple((settings or {}).get("aliases", ())),
            ipv4=(settings or {}).get("ipv4_address", ""),
            ipv6=(settings or {}).get("ipv6_address", ""),
        )
        for name, settings in named(raw or {}).items()
    )


def parse_health(raw: Mapping[str, Any]) -> Health:
    """Return the normal form of ``healthcheck``."""
    times = {
        key: parse_duration(raw[key])
        for key in ("interval", "timeout", "start_period", "start_interval")
        if key in raw
    }
    return Health(test=health_test(raw["test"]), retries=raw.get("retries", 3), **times)


def parse_restart(raw: Mapping[str, Any]) -> RestartPolicy:
    """Return the normal form of ``deploy.restart_policy``."""
    times = {key: parse_duration(raw[key]) for key in ("delay", "window") if key in raw}
    return RestartPolicy(condition=raw.get("condition", "any"), max_attempts=raw.get("max_attempts"), **times)


def parse_update(raw: Mapping[str, Any]) -> Update:
    """Return the normal form of ``deploy.update_config``."""
    times = {key: parse_duration(raw[key]) for key in ("delay", "monitor") if key in raw}
    return Update(raw.get("order", "stop-first"), raw.get("parallelism", 1), **times)


def parse_route(raw: Mapping[str, Any]) -> Route:
    """Return the normal form of one ``x-memoryark.routes`` entry."""
    fields = dict(raw)
    for key, parse in (("body_size", parse_size), ("timeout", parse_duration)):
        if key in raw:
            fields[key] = parse(raw[key])
    return Route(**fields)


def parse_config(raw: Mapping[str, Any]) -> Config:
    """Return the normal form of ``x-memoryark.config``."""
    return Config(tuple(raw.get("check", ())), raw.get("reload_signal", ""), tuple(raw.get("reload", ())))


def parse_ulimit(raw: Any) -> str:
    """Return a ulimit as Podman writes it, ``soft:hard``."""
    return f"{raw['soft']}:{raw['hard']}" if isinstance(raw, Mapping) else f"{raw}:{raw}"


def texts(value: Any) -> dict[str, str]:
    """Return a Compose map-or-list as a mapping of texts."""
    return {name: scalar(content) for name, content in keyed(value or {}).items()}


def parse_service(name: str, raw: Mapping[str, Any]) -> Service:
    """Return the normal form of one service that passed the schema and the checks of its required keys."""
    resources = raw["deploy"]["resources"]
    limits, reservations = resources["limits"], resources.get("reservations", {})
    extension = raw["x-memoryark"]
    metrics = extension.get("metrics", {})
    databases = (entry.partition(":") for entry in extension.get("databases", ()))
    return Service(
        name=name,
        image=raw["image"],
        container_name=raw.get("container_name", name),
        id_range=extension["id_range"],
        health=parse_health(raw["healthcheck"]),
        cpus=parse_cpus(limits["cpus"]),
        memory=parse_size(limits["memory"]),
        pids=limits.get("pids", DEFAULT_PIDS),
        reserved_cpus=parse_cpus(reservations["cpus"]) if "cpus" in reservations else 0.0,
        reserved_memory=parse_size(reservations.get("memory", 0)),
        restart=parse_restart(raw["deploy"].get("restart_policy", {})),
        replicas=raw["deploy"].get("replicas", 1),
        update=parse_update(raw["deploy"].get("update_config", {})),
        config=parse_config(extension.get("config", {})),
        databases=tuple((volume, path) for volume, _colon, path in databases),
        command=words(raw.get("command")),
        entrypoint=words(raw.get("entrypoint")),
        environment=texts(raw.get("environment")),
        secret_environment=dict(extension.get("secret_environment", {})),
        user=str(raw.get("user", "")),
        working_dir=raw.get("working_dir", ""),
        hostname=raw.get("hostname", ""),
        networks=parse_networks(raw.get("networks")),
        ports=tuple(parse_port(item) for item in raw.get("ports", ())),
        mounts=tuple(parse_mount(item) for item in raw.get("volumes", ())),
        tmpfs=strings(raw.get("tmpfs")),
        secrets=tuple(parse_secret(item) for item in raw.get("secrets", ())),
        depends_on=tuple(named(raw.get("depends_on") or {})),
        stop_grace=parse_duration(raw.get("stop_grace_period", "10s")),
        stop_signal=raw.get("stop_signal", ""),
        init=raw.get("init", False),
        read_only=raw.get("read_only", False),
        cap_add=strings(raw.get("cap_add")),
        cap_drop=strings(raw.get("cap_drop")),
        security_opt=strings(raw.get("security_opt")),
        sysctls=texts(raw.get("sysctls")),
        ulimits={key: parse_ulimit(value) for key, value in raw.get("ulimits", {}).items()},
        extra_hosts={
            host: str(address) for host, address in extra_hosts(raw.get("extra_hosts") or {}).items()
        },
        dns=strings(raw.get("dns")),
        dns_search=strings(raw.get("dns_search")),
        labels=texts(raw.get("labels")),
        shm_size=parse_size(raw.get("shm_size", 0)),
        routes=tuple(parse_route(item) for item in extension.get("routes", ())),
        metrics_port=metrics.get("port", 0),
        metrics_path=metrics.get("path", "/metrics"),
    )
