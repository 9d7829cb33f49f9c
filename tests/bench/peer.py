"""The peer of the benchmark: the same things on the same host, kept by the containers.podman collection.

Its tasks are written from the catalogue, so that both keep the same: one task for each network, volume,
directory, image, secret, file and container, as the collection's own documentation shows them. Names,
addresses, ports and the root are others, so that both run on one host.
"""

from __future__ import annotations

import ipaddress
import shlex
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from ansible_collections.memoryark.ops.plugins.plugin_utils.certificates import PAIR, STORE
from ansible_collections.memoryark.ops.plugins.plugin_utils.checks import start_levels
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import (
    Attachment,
    Catalogue,
    Network,
    Service,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.quadlet import ID_RANGE_SIZE, id_range
from ansible_collections.memoryark.ops.plugins.plugin_utils.quantities import seconds
from ansible_collections.memoryark.ops.plugins.plugin_utils.release import directories

PREFIX = "peer-"
ROOT = "/srv/peer"
PORTS = 10_000
# Far enough to leave what the catalogue uses: another second byte, another third group.
_SHIFT = {4: 100 << 16, 6: 1 << 80}
# What lsattr shows of a directory on ext4 that is written synchronously.
_SYNCHRONOUS = "Se"

Task = dict[str, Any]
Configs = Mapping[str, Mapping[str, str]]
"""Texts of configuration files by service and path."""


def apart(catalogue: Catalogue) -> Catalogue:
    """Return the catalogue with names, addresses and ports of the peer; keys stay."""
    return Catalogue(
        services={name: _service(service) for name, service in catalogue.services.items()},
        networks={key: _network(network) for key, network in catalogue.networks.items()},
        volumes={
            key: replace(volume, name=PREFIX + volume.name) for key, volume in catalogue.volumes.items()
        },
    )


def _service(service: Service) -> Service:
    return replace(
        service,
        container_name=PREFIX + service.container_name,
        ports=tuple(replace(port, published=port.published + PORTS) for port in service.ports),
        networks=tuple(
            replace(one, ipv4=one.ipv4 and shifted(one.ipv4), ipv6=one.ipv6 and shifted(one.ipv6))
            for one in service.networks
        ),
    )


def _network(network: Network) -> Network:
    return replace(
        network,
        name=PREFIX + network.name,
        interface=(PREFIX + network.key)[:15],
        subnets=tuple(shifted(subnet) for subnet in network.subnets),
    )


def shifted(address: str) -> str:
    """Return an address, or a subnet, of the peer for one of the catalogue."""
    head, slash, length = address.partition("/")
    parsed = ipaddress.ip_address(head)
    return f"{parsed + _SHIFT[parsed.version]}{slash}{length}"


def playbook(catalogue: Catalogue, configs: Configs, folder: str, host_part: str) -> list[dict[str, Any]]:
    """Return the whole playbook for a catalogue that was set ``apart``.

    ``host_part`` is the playbook that keeps the host's own settings, ``folder`` has the configuration files.
    """
    return [
        {"name": "Keep the host's settings", "ansible.builtin.import_playbook": host_part},
        {
            "name": "Keep the objects, one task each",
            "hosts": "memoryark",
            "become": True,
            "gather_facts": False,
            "tasks": tasks(catalogue, configs, folder),
            "handlers": handlers(catalogue, configs),
        },
    ]


def tasks(catalogue: Catalogue, configs: Configs, folder: str) -> list[Task]:
    """Return one task for each object."""
    kept_by_podman = [volume for volume in catalogue.volumes.values() if not volume.directory]
    levels = start_levels({name: service.depends_on for name, service in catalogue.services.items()})
    return [
        *(network_task(network) for network in catalogue.networks.values()),
        *(directory_task(entry) for entry in wanted_directories(catalogue, configs)),
        *(
            task(f"Keep the volume {volume.name}", "containers.podman.podman_volume", name=volume.name)
            for volume in kept_by_podman
        ),
        *(image_task(name, service.image) for name, service in catalogue.services.items()),
        *(secret_task(name) for name in catalogue.secret_names),
        *certificate_tasks(catalogue),
        *(config_task(service, path, folder) for service, paths in configs.items() for path in paths),
        *(container_task(catalogue.services[name], catalogue) for level in levels for name in level),
    ]


def handlers(catalogue: Catalogue, configs: Configs) -> list[Task]:
    """Return the handlers that let a service read its changed configuration."""
    return [
        task(
            f"Restart {service}",
            "containers.podman.podman_container",
            name=catalogue.services[service].container_name,
            state="started",
            force_restart=True,
        )
        for service in configs
    ]


def task(title: str, module: str, **options: Any) -> Task:
    """Return a task; options that are None or empty are left out."""
    return {
        "name": title,
        module: {key: value for key, value in options.items() if value not in (None, [], {}, "")},
    }


def network_task(network: Network) -> Task:
    """Return the task for a network; its gateways are the first addresses, as Podman chooses them."""
    subnets = [ipaddress.ip_network(subnet) for subnet in network.subnets]
    return task(
        f"Keep the network {network.name}",
        "containers.podman.podman_network",
        name=network.name,
        internal=network.internal,
        ipv6=True if network.ipv6 else None,
        opt={"bridge_name": network.interface},
        net_config=[{"subnet": str(subnet), "gateway": str(subnet[1])} for subnet in subnets],
    )


def wanted_directories(catalogue: Catalogue, configs: Configs) -> list[dict[str, Any]]:
    """Return our own directories, and those of configuration files, parents first."""
    folders = {
        str(PurePosixPath("config", service, path).parent)
        for service, paths in configs.items()
        for path in paths
    }
    made = [{"path": path, "owner": 0, "group": 0, "mode": "0755"} for path in folders]
    return sorted([*directories(catalogue), *made], key=lambda entry: entry["path"])


def directory_task(entry: Mapping[str, Any]) -> Task:
    """Return the task for a directory."""
    return task(
        f"Keep the directory {entry['path']}",
        "ansible.builtin.file",
        path=f"{ROOT}/{entry['path']}",
        state="directory",
        owner=str(entry["owner"]),
        group=str(entry["group"]),
        mode=entry["mode"],
        attributes=_SYNCHRONOUS if entry.get("synchronous") else None,
    )


def image_task(name: str, reference: str) -> Task:
    """Return the task for a service's image."""
    return task(f"Keep the image of {name}", "containers.podman.podman_image", name=reference)


def secret_task(name: str) -> Task:
    """Return the task for a secret; its value comes from the inventory and stands in no file."""
    value = f"{{{{ memoryark_secrets['{name}'] }}}}"
    made = task(f"Keep the secret {name}", "containers.podman.podman_secret", name=PREFIX + name, data=value)
    return made | {"no_log": True}


def certificate_tasks(catalogue: Catalogue) -> list[Task]:
    """Return the tasks for the inventory's own certificate, where the proxy looks for it."""
    if STORE not in catalogue.volumes:
        return []
    volume = catalogue.volumes[STORE]
    folder = {"path": f"{volume.directory}/current", "owner": 0, "group": volume.group, "mode": volume.mode}
    files = [
        task(
            f"Keep {name}",
            "ansible.builtin.copy",
            content=f"{{{{ memoryark_secrets.{secret} }}}}",
            dest=f"{ROOT}/{folder['path']}/{name}",
            group=str(volume.group),
            mode="0640",
        )
        for secret, name in zip(PAIR, ("fullchain.pem", "privkey.pem"), strict=True)
    ]
    return [directory_task(folder), *(file | {"no_log": True} for file in files)]


def config_task(service: str, path: str, folder: str) -> Task:
    """Return the task for a configuration file."""
    made = task(
        f"Keep {path} of {service}",
        "ansible.builtin.copy",
        src=f"{folder}/{service}/{path}",
        dest=f"{ROOT}/config/{service}/{path}",
        owner="root",
        group="root",
        mode="0644",
    )
    return made | {"notify": f"Restart {service}"}


def container_task(service: Service, catalogue: Catalogue) -> Task:
    """Return the task for a container, with the limits, mounts and checks that its unit has with us."""
    health, first = service.health, id_range(service)
    # As one command line: of a list the collection cannot tell that nothing has changed.
    check = shlex.join(health.test)
    return task(
        f"Keep the container {service.container_name}",
        "containers.podman.podman_container",
        name=service.container_name,
        state="started",
        image=service.image,
        entrypoint=" ".join(service.entrypoint),
        command=list(service.command),
        user=service.user,
        hostname=service.hostname,
        workdir=service.working_dir,
        env=dict(service.environment),
        network=[attachment(one, service, catalogue) for one in service.networks],
        publish=[f"{port.published}:{port.target}/{port.protocol}" for port in service.ports],
        etc_hosts=dict(service.extra_hosts),
        volume=volumes(service, catalogue),
        tmpfs={
            path: options or "rw" for path, _colon, options in (one.partition(":") for one in service.tmpfs)
        },
        secrets=secrets(service),
        memory=str(service.memory),
        memory_swap=str(service.memory),
        cpus=f"{service.cpus:g}",
        pids_limit=str(service.pids),
        uidmap=[f"0:{first}:{ID_RANGE_SIZE}"],
        gidmap=[f"0:{first}:{ID_RANGE_SIZE}"],
        cap_drop=[name.lower() for name in service.cap_drop],
        cap_add=list(service.cap_add),
        security_opt=["no-new-privileges"],
        read_only=service.read_only,
        read_only_tmpfs=False,
        healthcheck=check,
        healthcheck_interval=seconds(health.interval),
        healthcheck_timeout=seconds(health.timeout),
        healthcheck_retries=health.retries,
        healthcheck_start_period=seconds(health.start_period),
        health_startup_cmd=check,
        health_startup_interval=seconds(health.start_interval),
        health_startup_timeout=seconds(health.timeout),
        healthcheck_failure_action="kill",
        log_driver="journald",
        restart_policy="always",
        stop_signal=signal.Signals[service.stop_signal].value if service.stop_signal else None,
        stop_timeout=round(service.stop_grace),
    )


def attachment(attached: Attachment, service: Service, catalogue: Catalogue) -> str:
    """Return how a container is on a network, as Podman writes it."""
    options = [f"alias={alias}" for alias in dict.fromkeys((service.name, *attached.aliases))]
    options += [f"ip={attached.ipv4}"] if attached.ipv4 else []
    options += [f"ip6={attached.ipv6}"] if attached.ipv6 else []
    return f"{catalogue.networks[attached.network].name}:{','.join(options)}"


def volumes(service: Service, catalogue: Catalogue) -> list[str]:
    """Return a container's mounts, as Podman writes them."""
    found = []
    for mount in service.mounts:
        options = f"{'ro' if mount.read_only else 'rw'},nosuid,nodev,noexec"
        if mount.kind == "config":
            found.append(f"{ROOT}/config/{service.name}:{mount.target}:{options},idmap")
        elif directory := catalogue.volumes[mount.source].directory:
            found.append(f"{ROOT}/{directory}:{mount.target}:{options},idmap")
        else:
            found.append(f"{catalogue.volumes[mount.source].name}:{mount.target}:{options}")
    return found


def secrets(service: Service) -> list[str]:
    """Return a container's secrets, as Podman writes them."""
    variables = [
        f"{PREFIX}{name},type=env,target={variable}"
        for variable, name in sorted(service.secret_environment.items())
    ]
    mounts = [
        f"{PREFIX}{use.source},type=mount,target={use.target},uid={use.uid},gid={use.gid},mode={use.mode:04o}"
        for use in service.secrets
    ]
    return variables + mounts
