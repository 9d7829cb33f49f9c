# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Renders services to Quadlet units for Podman 5.4.2, the version in Debian 13.

Source of the keys: podman-systemd.unit(5) and systemd.service(5) of that release.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import re
from collections.abc import Iterator, Mapping

from ansible_collections.memoryark.ops.plugins.module_utils import databases, networks
from ansible_collections.memoryark.ops.plugins.module_utils.host import PREFIX
from ansible_collections.memoryark.ops.plugins.module_utils.store import (
    LIVE,
    PRESENT_MANIFEST,
    TARGET,
    TRIAL,
)
from ansible_collections.memoryark.ops.plugins.module_utils.units import HEALTH
from ansible_collections.memoryark.ops.plugins.plugin_utils.instances import Instance, instances, steady
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import (
    Catalogue,
    Health,
    RestartPolicy,
    Service,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.quantities import seconds

Section = list[tuple[str, str]]

SLICE = "memoryark.slice"
# Against 100 of everything else on the host: a deployment, a backup or an update slows no visitor down, and
# what is left is enough to sign in and to see why processors are short.
SLICE_WEIGHT = 500
# What a service that reserves nothing counts as. systemd's default would make it the equal of one that
# reserves a whole processor.
UNRESERVED_CPUS = 0.1
ID_RANGE_BASE = 100_000
ID_RANGE_SIZE = 65_536
# What a start may take beyond the health check's own times: creating the container, a slow host.
START_MARGIN = 60.0
# Podman sends SIGKILL at the end of the grace period; systemd must wait longer than that.
STOP_MARGIN = 15.0

# An unknown key makes the generator drop the whole unit while everything else goes on.
_CONTAINER_KEYS = """
    AddCapability AddDevice AddHost Annotation AutoUpdate CgroupsMode ContainerName ContainersConfModule
    DNS DNSOption DNSSearch DropCapability Entrypoint Environment EnvironmentFile EnvironmentHost Exec
    ExposeHostPort GIDMap GlobalArgs Group GroupAdd HealthCmd HealthInterval HealthLogDestination
    HealthMaxLogCount HealthMaxLogSize HealthOnFailure HealthRetries HealthStartPeriod HealthStartupCmd
    HealthStartupInterval HealthStartupRetries HealthStartupSuccess HealthStartupTimeout HealthTimeout
    HostName IP IP6 Image Label LogDriver LogOpt Mask Mount Network NetworkAlias NoNewPrivileges Notify
    PidsLimit Pod PodmanArgs PublishPort Pull ReadOnly ReadOnlyTmpfs Rootfs RunInit SeccompProfile
    Secret SecurityLabelDisable SecurityLabelFileType SecurityLabelLevel SecurityLabelNested
    SecurityLabelType ServiceName ShmSize StartWithPod StopSignal StopTimeout SubGIDMap SubUIDMap Sysctl
    Timezone Tmpfs UIDMap Ulimit Unmask User UserNS Volume WorkingDir
"""
CONTAINER_KEYS = frozenset(_CONTAINER_KEYS.split())
# Keys of later releases, by the release that brought them: named so that the message can say why.
LATER_KEYS = {
    **dict.fromkeys(("Memory", "ReloadCmd", "ReloadSignal", "Retry", "RetryDelay"), "5.5"),
    **dict.fromkeys(("HttpProxy",), "5.7"),
    **dict.fromkeys(("AppArmor",), "5.8"),
}


def refused_keys(unit: str) -> list[str]:
    """Return a message for every ``[Container]`` key in ``unit`` that Podman 5.4.2 does not know."""
    section, messages = "", []
    for line in unit.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        key = line.partition("=")[0]
        if section == "Container" and line and not line.startswith(("[", "#")) and key not in CONTAINER_KEYS:
            since = f"; it came with Podman {LATER_KEYS[key]}" if key in LATER_KEYS else ""
            messages.append(f"{key} is no [Container] key of Podman 5.4.2{since}")
    return messages


def escape(text: str) -> str:
    """Protect ``text`` from systemd: specifiers and, as it ends in ExecStart, variable expansion."""
    return text.replace("%", "%%").replace("$", "$$")


def quote(text: str) -> str:
    """Quote one word of a list for systemd (systemd.syntax(7), "Quoting")."""
    if text and re.fullmatch(r"[A-Za-z0-9_@%+=:,./{}\-]+", text):
        return escape(text)
    body = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escape(body)}"'


def unit_text(sections: Mapping[str, Section]) -> str:
    """Render sections of ``(key, value)`` pairs; a key may come more than once."""
    blocks = [
        "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in pairs)])
        for name, pairs in sections.items()
    ]
    return "\n\n".join(blocks) + "\n"


def health_limit(health: Health) -> float:
    """Return the seconds after which Compose takes a container for unhealthy that never was anything else."""
    return health.start_period + health.retries * (health.interval + health.timeout)


def start_timeout(health: Health) -> float:
    """Return the seconds within which a container must have been made and become healthy."""
    return health_limit(health) + START_MARGIN


def render_container(service: Service, instance: Instance, catalogue: Catalogue, root: str) -> str:
    """Return the ``.container`` unit of one instance; ``root`` is the host directory of all data.

    The one that stands in during a change is in nobody's ``WantedBy``: no boot starts it.
    A secret stands in the text as ``{secret:NAME}``: the host puts the name of the secret's present version
    there, so that a new value changes the unit and with it restarts the container.
    """
    return unit_text(
        {
            "Unit": list(_unit_section(service, instance, catalogue)),
            "Container": list(_container_section(service, instance, catalogue, root)),
            "Service": [*_service_section(service, instance), *_config_section(service, instance, root)],
            **({} if instance.surge else {"Install": [("WantedBy", TARGET)]}),
        }
    )


def _unit_section(service: Service, instance: Instance, catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    yield "Description", f"MemoryArk {instance.unit.removeprefix(PREFIX)}"
    yield "PartOf", TARGET
    for name in service.depends_on:
        for needed in steady(catalogue.services[name], catalogue):
            # Wants, not Requires: a restart of the other must not restart this one.
            yield "Wants", f"{needed.unit}.service"
            yield "After", f"{needed.unit}.service"
    if service.databases:
        # Without it the service must not run: it would add to a database that a later recovery takes back.
        yield "Requires", databases.UNIT
        yield "After", databases.UNIT
    yield from _start_limit(service.restart, start_timeout(service.health))


def _start_limit(policy: RestartPolicy, timeout: float) -> Iterator[tuple[str, str]]:
    """Compose counts failed restarts in a row, systemd counts starts in an interval.

    ``max_attempts`` restarts and the first start make the burst. Restarts count as one row as long as
    each came to nothing within the window, so the interval spans that many windows and delays.
    """
    if not policy.max_attempts:
        yield "StartLimitIntervalSec", "0"
        return
    span = policy.max_attempts * (max(policy.window, timeout) + policy.delay)
    yield "StartLimitBurst", str(policy.max_attempts + 1)
    yield "StartLimitIntervalSec", seconds(span)


def _container_section(
    service: Service, instance: Instance, catalogue: Catalogue, root: str
) -> Iterator[tuple[str, str]]:
    yield "ContainerName", instance.container
    yield "Image", service.image
    yield "Pull", "never"
    yield from _process(service)
    yield from _isolation(service)
    yield from _network(service, instance, catalogue)
    yield from _storage(service, catalogue, root)
    yield from _secrets(service)
    yield from _health(service.health, instance)
    yield "LogDriver", "journald"
    yield "StopTimeout", str(math.ceil(service.stop_grace))
    if service.stop_signal:
        yield "StopSignal", service.stop_signal
    for name, value in sorted(service.labels.items()):
        yield "Label", quote(f"{name}={value}")


def _process(service: Service) -> Iterator[tuple[str, str]]:
    if service.entrypoint:
        yield "Entrypoint", escape(json.dumps(list(service.entrypoint), ensure_ascii=False))
    if service.command:
        yield "Exec", " ".join(quote(word) for word in service.command)
    if service.user:
        user, _colon, group = service.user.partition(":")
        yield "User", user
        if group:
            yield "Group", group
    if service.working_dir:
        yield "WorkingDir", quote(service.working_dir)
    if service.init:
        yield "RunInit", "true"
    for name, value in sorted(service.environment.items()):
        yield "Environment", quote(f"{name}={value}")


def id_range(service: Service) -> int:
    """Return the first of the host's ids that are this service's."""
    return ID_RANGE_BASE + (service.id_range - 1) * ID_RANGE_SIZE


def _isolation(service: Service) -> Iterator[tuple[str, str]]:
    first = id_range(service)
    yield "UIDMap", f"0:{first}:{ID_RANGE_SIZE}"
    yield "GIDMap", f"0:{first}:{ID_RANGE_SIZE}"
    for name in service.cap_drop:
        yield "DropCapability", name.lower()
    for name in service.cap_add:
        yield "AddCapability", name
    yield "NoNewPrivileges", "true"
    yield "ReadOnly", "true" if service.read_only else "false"
    # Writable places are those that the Compose file names, and no others.
    yield "ReadOnlyTmpfs", "false"
    yield "PidsLimit", str(service.pids)
    # Podman 5.4 has no keys for these. Without its own swap limit a container gets twice its memory.
    yield (
        "PodmanArgs",
        f"--memory={service.memory} --memory-swap={service.memory} --cpus={service.cpus:g}",
    )
    for name, value in sorted(service.ulimits.items()):
        yield "Ulimit", f"{name}={value}"
    for name, value in sorted(service.sysctls.items()):
        yield "Sysctl", quote(f"{name}={value}")


def _network(service: Service, instance: Instance, catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    if service.hostname:
        yield "HostName", service.hostname
    for attached in service.networks:
        options = [f"alias={alias}" for alias in dict.fromkeys((service.name, *attached.aliases))]
        ipv4 = instance.addresses.get(attached.network, attached.ipv4)
        options += [f"ip={ipv4}"] if ipv4 else []
        options += [f"ip6={attached.ipv6}"] if attached.ipv6 else []
        options += [f"mac={link_address(fixed)}"] if (fixed := ipv4 or attached.ipv6) else []
        yield "Network", f"{catalogue.networks[attached.network].name}:{','.join(options)}"
    if not service.networks:
        yield "Network", "none"
    for port in service.ports:
        address = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
        host = f"{address}:" if address else ""
        yield "PublishPort", f"{host}{port.published}:{port.target}/{port.protocol}"
    for host, address in sorted(service.extra_hosts.items()):
        yield "AddHost", f"{host}:{address}"
    for server in service.dns:
        yield "DNS", server
    for domain in service.dns_search:
        yield "DNSSearch", domain


def link_address(address: str) -> str:
    """Return the MAC address of a fixed IP address: locally administered, and always the same.

    A container that is made anew would have another one, and its neighbours sent to the old one until their
    kernels had tried that for some ten seconds. The announcement that netavark has the kernel make for that
    (``arp_notify``) is lost when it comes before the bridge forwards.
    """
    ip = ipaddress.ip_address(address)
    # A subnet of IPv6 has more addresses than there are link addresses: no part of one is its own.
    own = ip.packed if ip.version == 4 else hashlib.sha256(ip.packed).digest()[:4]
    return f"02:4{ip.version}:{own.hex(':')}"


def _storage(service: Service, catalogue: Catalogue, root: str) -> Iterator[tuple[str, str]]:
    for mount in service.mounts:
        options = ["ro" if mount.read_only else "rw", "nosuid", "nodev", "noexec"]
        if mount.kind == "config":
            # A program that reads its files anew has them in a place where they can change under it.
            source = live_directory(service) if service.config.live else config_set(service, root)
            yield "Volume", _volume(source, mount.target, [*options, "idmap"])
            continue
        volume = catalogue.volumes[mount.source]
        if volume.directory:
            # The files belong on disk to the ids that the container sees, whatever range it runs in.
            yield "Volume", _volume(f"{root}/{volume.directory}", mount.target, [*options, "idmap"])
        else:
            yield "Volume", _volume(volume.name, mount.target, options)
    for entry in service.tmpfs:
        yield "Tmpfs", quote(entry)
    if service.shm_size:
        yield "ShmSize", str(service.shm_size)


def _volume(source: str, target: str, options: list[str]) -> str:
    return quote(f"{source}:{target}:{','.join(options)}")


def config_set(service: Service, root: str) -> str:
    """Return the directory of this release's configuration; the host puts the set's name in its place."""
    return f"{root}/config/{service.name}/{{config}}"


def live_directory(service: Service) -> str:
    """Return where a service that reads its configuration anew finds it."""
    return f"{LIVE}/{service.name}"


def render_check(service: Service, catalogue: Catalogue, root: str) -> list[str]:
    """Return the command that lets a service's own program check its configuration, empty without one.

    It runs with everything that the configuration may name, but nothing that it could write to, and with no
    network.
    """
    targets = [mount.target for mount in service.mounts if mount.kind == "config"]
    if not service.config.check or not targets:
        return []
    first = id_range(service)
    program, *arguments = service.config.check
    options = [
        "--rm",
        "--network=none",
        "--pull=never",
        "--read-only",
        f"--uidmap=0:{first}:{ID_RANGE_SIZE}",
        f"--gidmap=0:{first}:{ID_RANGE_SIZE}",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        f"--memory={service.memory}",
        *([f"--user={service.user}"] if service.user else []),
        *(f"--tmpfs={entry}" for entry in service.tmpfs),
        *(f"--env={name}={value}" for name, value in sorted(service.environment.items())),
        *(f"--secret={value}" for _key, value in _secrets(service)),
        *(
            f"--volume={config_set(service, root)}:{target}:ro,nosuid,nodev,noexec,idmap"
            for target in targets
        ),
        *(
            f"--volume={root}/{volume.directory}:{mount.target}:ro,nosuid,nodev,noexec,idmap"
            for mount in service.mounts
            if mount.read_only and (volume := catalogue.volumes.get(mount.source)) and volume.directory
        ),
        f"--entrypoint={program}",
    ]
    return ["podman", "run", *options, service.image, *arguments]


def _secrets(service: Service) -> Iterator[tuple[str, str]]:
    for variable, name in sorted(service.secret_environment.items()):
        yield "Secret", f"{{secret:{name}}},type=env,target={variable}"
    for use in service.secrets:
        yield (
            "Secret",
            f"{{secret:{use.source}}},type=mount,target={use.target},uid={use.uid},gid={use.gid},mode={use.mode:04o}",
        )


def _health(health: Health, instance: Instance) -> Iterator[tuple[str, str]]:
    command = escape(json.dumps(list(health.test), ensure_ascii=False))
    yield "HealthCmd", command
    yield "HealthInterval", seconds(health.interval)
    yield "HealthTimeout", seconds(health.timeout)
    yield "HealthRetries", str(health.retries)
    yield "HealthStartPeriod", seconds(health.start_period)
    # The start-up check lets a container count as started seconds, not an interval, after it is ready.
    yield "HealthStartupCmd", command
    yield "HealthStartupInterval", seconds(health.start_interval)
    yield "HealthStartupTimeout", seconds(health.timeout)
    # 0: never restarted by Podman. Restarts are systemd's, which knows the policy.
    yield "HealthStartupRetries", "0"
    yield "HealthOnFailure", "kill"
    yield "HealthLogDestination", f"{HEALTH}/{instance.unit}"
    yield "Notify", "healthy"


_RESTART = {"none": "no", "on-failure": "on-failure", "any": "always"}


def _service_section(service: Service, instance: Instance) -> Iterator[tuple[str, str]]:
    yield "Slice", SLICE
    yield "Restart", _RESTART[service.restart.condition]
    yield "RestartSec", seconds(service.restart.delay)
    yield "TimeoutStartSec", seconds(start_timeout(service.health))
    yield "TimeoutStopSec", seconds(math.ceil(service.stop_grace) + STOP_MARGIN)
    # Podman adds a file for each container and deletes none.
    notes = f"{HEALTH}/{instance.unit}"
    yield "ExecStartPre", f'/usr/bin/sh -c "rm --recursive --force {notes} && mkdir --parents {notes}"'
    if service.reserved_memory:
        yield "MemoryLow", str(service.reserved_memory)
    # cgroup v2 has shares, not reserved processors: 100 stands for one processor.
    yield "CPUWeight", str(max(1, round((service.reserved_cpus or UNRESERVED_CPUS) * 100)))
    if service.ports:
        # It logs who came: a line that the journal drops would be a visitor without a trace.
        yield "LogRateLimitIntervalSec", "0"


def _config_section(service: Service, instance: Instance, root: str) -> Iterator[tuple[str, str]]:
    if not service.config.live:
        return
    live = live_directory(service)
    yield "ExecStartPre", f"/usr/bin/mkdir --parents {live}"
    # What a release has put there since the boot stays.
    yield "ExecStartPre", f"/usr/bin/cp --recursive --update=none {config_set(service, root)}/. {live}"
    if service.config.reload:
        command = " ".join(quote(word) for word in service.config.reload)
        yield "ExecReload", f"/usr/bin/podman exec {instance.container} {command}"
    else:
        signal = service.config.reload_signal
        yield "ExecReload", f"/usr/bin/podman kill --signal={signal} {instance.container}"


def render_units(catalogue: Catalogue, root: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return ``(quadlet units, systemd units)`` as file name to text."""
    quadlets = {
        f"{instance.unit}.container": render_container(service, instance, catalogue, root)
        for service in catalogue.services.values()
        for instance in instances(service, catalogue)
    }
    reserved = sum(service.reserved_memory * service.replicas for service in catalogue.services.values())
    target: Section = [("Description", "MemoryArk: all of its containers"), ("Wants", networks.UNIT)]
    # A container's MemoryLow only counts up to what the slice above it has.
    share: Section = [("MemoryLow", str(reserved)), ("CPUWeight", str(SLICE_WEIGHT))]
    # At boot only: while a release is being tried, systemd has the target from /run.
    recovery: Section = [
        ("Description", "MemoryArk: databases as they were before a release that was interrupted"),
        ("ConditionPathExists", databases.TRIAL),
        ("ConditionPathExists", f"!{TRIAL}/{TARGET}"),
        ("RequiresMountsFor", root),
    ]
    program: Section = [("Type", "oneshot"), ("ExecStart", f"/usr/bin/python3 {databases.PROGRAM}")]
    # The order is told here and not in the containers' units: when a network cannot be made, those that need
    # it not start all the same.
    keeping: Section = [
        ("Description", "MemoryArk: networks as the present release has them"),
        ("ConditionPathExists", f"!{TRIAL}/{TARGET}"),
        ("RequiresMountsFor", "/var/lib/containers"),
        *(("Before", name.replace(".container", ".service")) for name in sorted(quadlets)),
    ]
    # -S: nothing that is installed for Python on the host. -B: no compiled file, which a power cut may tear.
    keeper: Section = [
        ("Type", "oneshot"),
        ("Environment", f"PYTHONPATH={networks.PACKAGES}"),
        # Containers wait for it, but not for ever.
        ("TimeoutStartSec", "5min"),
        ("ExecStart", f"/usr/bin/python3 -B -S -m {networks.__name__} {PRESENT_MANIFEST}"),
    ]
    return quadlets, {
        databases.UNIT: unit_text({"Unit": recovery, "Service": program}),
        networks.UNIT: unit_text({"Unit": keeping, "Service": keeper}),
        TARGET: unit_text({"Unit": target, "Install": [("WantedBy", "multi-user.target")]}),
        SLICE: unit_text({"Unit": [("Description", "MemoryArk containers")], "Slice": share}),
    }
