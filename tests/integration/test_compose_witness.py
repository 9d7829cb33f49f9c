"""Docker's own Compose reads the same files: it accepts the catalogue, and merges as we do."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import (
    Sources,
    build_catalogue,
    read_stack,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue, Service
from memoryark_lab import tools
from memoryark_lab.paths import REPO

STACK = REPO / "stack"
VARIABLES = {
    "MEMORYARK_DOMAIN": "photos.memoryark.test",
    "LINE_DOMAIN": "line.memoryark.test",
    "LINE_CHANNEL_ID": "1234567890",
    "ROOT_ADMIN_EMAIL": "admin@memoryark.test",
}
SERVICES = sorted(file.parent.name for file in STACK.glob("*/compose.yml"))
IMAGES = {name: f"registry.test/memoryark/{name}@sha256:{'0' * 64}" for name in SERVICES}
SECRETS = {
    "internal_api_token",
    "jwt_secret",
    "line_channel_access_token",
    "line_channel_secret",
    "extra",
}

OVERRIDES: list[dict[str, Any]] = [
    {},
    {"services": {"redis": {"environment": {"A": "1", "B": "two"}}}},
    {"services": {"line-service": {"environment": ["NODE_ENV=test", "EXTRA=yes"]}}},
    {"services": {"prometheus": {"command": ["--web.listen-address=:9091"]}}},
    {"services": {"redis": {"healthcheck": {"test": ["CMD", "true"], "interval": "1m30s"}}}},
    {"services": {"line-service": {"deploy": {"resources": {"limits": {"memory": "768M"}}}}}},
    {"services": {"line-service": {"deploy": {"restart_policy": {"max_attempts": 5, "delay": "1s"}}}}},
    {"services": {"line-service": {"deploy": {"replicas": 3, "update_config": {"delay": "5s"}}}}},
    {
        "services": {
            "memoryark-frontend": {"deploy": {"update_config": {"order": "stop-first", "parallelism": 2}}}
        }
    },
    {"services": {"redis": {"networks": ["frontend"]}}},
    {"services": {"memoryark-backend": {"networks": {"monitoring": {"aliases": ["other"]}}}}},
    {"services": {"redis": {"volumes": ["uploads:/data", "data:/more:ro"]}}},
    {"services": {"nginx-proxy": {"ports": ["8080:8080", "127.0.0.1:9000:9000/udp"]}}},
    {"services": {"redis": {"depends_on": ["memoryark-backend"]}}},
    {"services": {"redis": {"extra_hosts": {"a.test": "10.0.0.1"}, "dns": "10.0.0.2", "tmpfs": ["/run"]}}},
    {
        "services": {
            "redis": {"labels": ["a=b"], "user": "5:6", "working_dir": "/x", "stop_grace_period": "2m"}
        }
    },
    {
        "services": {"redis": {"secrets": [{"source": "extra", "target": "x", "uid": "5", "mode": 0o440}]}},
        "secrets": {"extra": {"external": True}},
    },
]


def theirs(tmp_path: Path, override: dict[str, Any]) -> dict[str, Any]:
    """What docker-compose makes of the catalogue and an override."""
    images = tmp_path / "images.yml"
    images.write_text(yaml.safe_dump({"services": {name: {"image": ref} for name, ref in IMAGES.items()}}))
    changes = tmp_path / "override.yml"
    changes.write_text(yaml.safe_dump(override or {"services": {}}))
    files = [*sorted(STACK.glob("*.yml")), *sorted(STACK.glob("*/compose.yml")), images, changes]
    command = [str(tools.docker_compose()), "--project-name=memoryark", f"--project-directory={STACK}"]
    command += [f"--file={file}" for file in files]
    done = subprocess.run(
        [*command, "config", "--format=json"],
        env={**os.environ, **VARIABLES},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "level=warning" not in done.stderr, done.stderr
    config: dict[str, Any] = json.loads(done.stdout)
    return config


def ours(override: dict[str, Any]) -> Catalogue:
    return build_catalogue(
        Sources(read_stack(STACK), override=override, images=IMAGES, variables=VARIABLES, secrets=SECRETS)
    )


def essence_of_ours(service: Service) -> dict[str, Any]:
    """What a service means, in the words in which both can say it."""
    return {
        "image": service.image,
        "container_name": service.container_name,
        "environment": dict(service.environment),
        "command": list(service.command),
        "networks": {attached.network: sorted(attached.aliases) for attached in service.networks},
        "ports": sorted((port.host_ip, port.published, port.target, port.protocol) for port in service.ports),
        "volumes": sorted(
            (
                str(STACK / mount.source) if mount.kind == "config" else mount.source,
                mount.target,
                mount.read_only,
            )
            for mount in service.mounts
        ),
        "secrets": sorted((use.source, use.target, use.uid, use.mode) for use in service.secrets),
        "tmpfs": sorted(service.tmpfs),
        "depends_on": sorted(service.depends_on),
        "memory": service.memory,
        "cpus": service.cpus,
        "reserved": (service.reserved_memory, service.reserved_cpus),
        "restart": (service.restart.condition, service.restart.delay, service.restart.max_attempts),
        "replicas": service.replicas,
        "update": (service.update.order, service.update.parallelism, service.update.delay),
        "health": (list(service.health.test), service.health.interval, service.health.retries),
        "extra_hosts": dict(service.extra_hosts),
        "dns": list(service.dns),
        "labels": dict(service.labels),
        "user": service.user,
        "working_dir": service.working_dir,
        "stop_grace": service.stop_grace,
        "stop_signal": service.stop_signal,
        "read_only": service.read_only,
        "hardening": (list(service.cap_drop), list(service.security_opt)),
    }


def seconds(text: str) -> float:
    """A duration as Go prints it."""
    total, number = 0.0, ""
    for letter in text:
        if letter in "hms":
            total += float(number) * {"h": 3600, "m": 60, "s": 1}[letter]
            number = ""
        else:
            number += letter
    return total


def essence_of_theirs(name: str, raw: dict[str, Any]) -> dict[str, Any]:
    resources = raw["deploy"]["resources"]
    restart = raw["deploy"]["restart_policy"]
    reserved = resources.get("reservations", {})
    update = raw["deploy"].get("update_config", {})
    return {
        "image": raw["image"],
        "container_name": raw.get("container_name", name),
        "environment": raw.get("environment", {}),
        "command": raw.get("command") or [],
        "networks": {
            name: sorted((settings or {}).get("aliases") or []) for name, settings in raw["networks"].items()
        },
        "ports": sorted(
            (port.get("host_ip", ""), int(port["published"]), port["target"], port["protocol"])
            for port in raw.get("ports", [])
        ),
        "volumes": sorted(
            (mount["source"], mount["target"], mount.get("read_only", False))
            for mount in raw.get("volumes", [])
        ),
        "secrets": sorted(
            (use["source"], use["target"], int(use.get("uid", 0)), int(use.get("mode", 0o400)))
            for use in raw.get("secrets", [])
        ),
        "tmpfs": sorted(raw.get("tmpfs", [])),
        "depends_on": sorted(raw.get("depends_on", {})),
        "memory": int(resources["limits"]["memory"]),
        "cpus": float(resources["limits"]["cpus"]),
        "reserved": (int(reserved.get("memory", 0)), float(reserved.get("cpus", 0))),
        "restart": (restart["condition"], seconds(restart["delay"]), restart.get("max_attempts")),
        "replicas": raw["deploy"].get("replicas", 1),
        "update": (
            update.get("order", "stop-first"),
            update.get("parallelism", 1),
            seconds(update.get("delay", "0s")),
        ),
        "health": (
            raw["healthcheck"]["test"][1:],
            seconds(raw["healthcheck"]["interval"]),
            raw["healthcheck"]["retries"],
        ),
        "extra_hosts": dict(entry.split("=") for entry in raw.get("extra_hosts", [])),
        "dns": raw.get("dns", []),
        "labels": raw.get("labels", {}),
        "user": raw.get("user", ""),
        "working_dir": raw.get("working_dir", ""),
        "stop_grace": seconds(raw.get("stop_grace_period", "10s")),
        "stop_signal": raw.get("stop_signal", ""),
        "read_only": raw.get("read_only", False),
        "hardening": (raw.get("cap_drop", []), raw.get("security_opt", [])),
    }


@pytest.mark.parametrize("override", OVERRIDES, ids=[str(override)[:60] for override in OVERRIDES])
def test_both_read_the_same(tmp_path: Path, override: dict[str, Any]) -> None:
    catalogue, config = ours(override), theirs(tmp_path, override)
    assert sorted(catalogue.services) == sorted(config["services"]) == SERVICES
    for name, service in catalogue.services.items():
        assert essence_of_ours(service) == essence_of_theirs(name, config["services"][name]), name


def test_networks_and_volumes_are_the_same(tmp_path: Path) -> None:
    catalogue, config = ours({}), theirs(tmp_path, {})
    for key, network in catalogue.networks.items():
        raw = config["networks"][key]
        assert network.name == raw["name"]
        assert network.internal == raw.get("internal", False)
        assert list(network.subnets) == [entry["subnet"] for entry in raw["ipam"]["config"]]
        assert network.ip_range == raw["ipam"]["config"][0].get("ip_range", "")
    assert {volume.name for volume in catalogue.volumes.values()} >= {
        raw["name"] for raw in config["volumes"].values()
    }
