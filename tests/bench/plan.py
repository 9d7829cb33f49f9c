"""How the time to plan grows with the number of services: everything that the controller computes, no host.

A catalogue is made up, as large as asked for and as rich as the real one. What is timed is what a run of
``site.yml`` does with it: read and check the Compose files, render the release, put the secrets' versions
into it, and compare it with a host. The host is one that runs a release in which every service differs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from ansible_collections.memoryark.ops.plugins.module_utils.plan import Found, Plan, make_plan
from ansible_collections.memoryark.ops.plugins.module_utils.release import Release, bind, secret_names
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import load_catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.release import build_release

T = TypeVar("T")
SIZES = (10, 50, 200)
ROUNDS = 5
ROOT = "/srv/memoryark"
STEPS = ("load and check", "render", "bind", "plan")
# A second of work for a comparison that starts nothing is what an operator waits for without wondering.
GOAL_SECONDS = 2.0
# Seconds per service at the largest size over those at the smallest; 1 is perfectly linear.
NEAR_LINEAR = 1.5

_NETWORKS = 4
_TEMPLATE = """\
# Made from the catalogue, as prometheus.yml is.
listen: {{ name_server(catalogue.networks["net-0"]) }}:{{ service.metrics_port }}
{% for host, routes in routes_by_host.items() if host == "photos.memoryark.test" %}
{% for other, route in routes %}
{{ route.path }}: {{ other.name }}:{{ route.port }}
{% endfor %}
{% endfor %}
"""


@dataclass(frozen=True)
class Growth:
    """Median seconds of processor time of each step of ``STEPS``, by number of services."""

    seconds: Mapping[int, Mapping[str, float]]

    def total(self, size: int) -> float:
        """Seconds for everything."""
        return sum(self.seconds[size].values())

    @property
    def factor(self) -> float:
        """Seconds per service at the largest size, over those at the smallest."""
        small, large = min(self.seconds), max(self.seconds)
        return (self.total(large) / large) / (self.total(small) / small)


def name(number: int) -> str:
    """The name of a service."""
    return f"service-{number:03d}"


def service(number: int) -> dict[str, Any]:
    """A service as the catalogue has them: each needs a few earlier ones, every tenth has configuration."""
    configured = number % 10 == 0
    needed = sorted({number - 1, number // 2} - {number}) if number else []
    config = {"check": ["true"], "reload_signal": "SIGHUP"} if configured else {}
    return {
        "container_name": name(number),
        "image": f"registry.test/memoryark/{name(number)}@sha256:{number:064x}",
        "networks": {f"net-{number % _NETWORKS}": {"aliases": [f"alias-{number}"]}},
        "depends_on": {name(other): {"condition": "service_healthy"} for other in needed},
        "environment": {f"SETTING_{index}": f"value {index} of ${{MEMORYARK_DOMAIN}}" for index in range(8)},
        "volumes": [
            f"data-{number}:/data",
            *([f"./{name(number)}/config:/etc/memoryark:ro"] if configured else []),
        ],
        "secrets": [{"source": f"secret_{number}", "target": "secret", "uid": "33", "gid": "33"}],
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "stop_grace_period": "30s",
        "healthcheck": {
            "test": ["CMD", "http-check", "8080", "/health"],
            "interval": "30s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "30s",
            "start_interval": "3s",
        },
        "deploy": {
            "resources": {
                "limits": {"cpus": "0.5", "memory": "128M", "pids": 64},
                "reservations": {"cpus": "0.1", "memory": "32M"},
            },
            "restart_policy": {"condition": "any", "delay": "5s", "max_attempts": 3, "window": "120s"},
        },
        "x-memoryark": {
            "id_range": number + 1,
            "secret_environment": {"TOKEN": f"secret_{number}"},
            "routes": [{"host": "${MEMORYARK_DOMAIN}", "path": f"/{name(number)}/", "port": 8080}],
            "metrics": {"port": 9000},
            **({"config": config} if config else {}),
        },
    }


def write_stack(stack: Path, size: int) -> None:
    """Write a catalogue of ``size`` services into the folder ``stack``."""
    networks = {
        f"net-{index}": {"name": f"bench-{index}", "ipam": {"config": [{"subnet": f"10.77.{index}.0/24"}]}}
        for index in range(_NETWORKS)
    }
    volumes = {f"data-{number}": {"x-memoryark": {"directory": f"data/{number}"}} for number in range(size)}
    (stack / "networks.yml").write_text(yaml.safe_dump({"networks": networks}), encoding="utf-8")
    (stack / "volumes.yml").write_text(yaml.safe_dump({"volumes": volumes}), encoding="utf-8")
    for number in range(size):
        raw = service(number)
        folder = stack / name(number)
        folder.mkdir()
        document = {
            "services": {name(number): raw},
            "secrets": {f"secret_{number}": {"external": True}},
        }
        (folder / "compose.yml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        if "config" in raw["x-memoryark"]:
            (folder / "config").mkdir()
            (folder / "config" / "app.yml.j2").write_text(_TEMPLATE, encoding="utf-8")


def earlier(release: Release) -> Found:
    """A host on which every service of ``release`` runs, as it was before each of them changed."""
    units = tuple(
        replace(unit, fingerprint="0" * 64, text=unit.text + "# earlier\n") for unit in release.units
    )
    return Found(
        release=replace(release, units=units),
        fingerprints={unit.name: unit.fingerprint for unit in units},
        active=release.names,
        images=release.images,
        secrets=release.secrets,
    )


def plan_once(stack: Path, size: int) -> tuple[dict[str, float], Plan]:
    """Plan a deployment of the catalogue in ``stack``; processor seconds of each step, and the plan."""
    seconds: dict[str, float] = {}

    def timed(step: str, work: Callable[[], T]) -> T:
        # Of this process alone: what neighbours on a shared machine do is not growth.
        begun = time.process_time()
        result = work()
        seconds[step] = time.process_time() - begun
        return result

    secrets = {f"secret_{number}": f"{number:016x}" for number in range(size)}
    variables = {"MEMORYARK_DOMAIN": "photos.memoryark.test"}
    load, render, binding, planning = STEPS
    catalogue = timed(load, lambda: load_catalogue(stack, variables=variables, secrets=set(secrets)))
    params = timed(render, lambda: build_release(catalogue, stack, ROOT, variables))
    release = timed(binding, lambda: bind(params, secret_names(secrets)))
    found = earlier(release)
    return seconds, timed(planning, lambda: make_plan(release, found))


def measure(
    sizes: tuple[int, ...] = SIZES, rounds: int = ROUNDS, say: Callable[[str], None] = print
) -> Growth:
    """Plan catalogues of all ``sizes``, ``rounds`` times in turn; medians."""
    taken: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory(prefix="memoryark-bench-") as folder:
        for size in sizes:
            (Path(folder) / str(size)).mkdir()
            write_stack(Path(folder) / str(size), size)
        for number in range(rounds):
            for size in sizes:
                seconds, plan = plan_once(Path(folder) / str(size), size)
                if len(plan.restart) != size:
                    raise AssertionError(f"{len(plan.restart)} of {size} services are planned to restart")
                taken[size].append(seconds)
                say(f"  {number + 1}/{rounds} {size} services: {sum(seconds.values()):.2f} s")
    return Growth(
        {
            size: {step: statistics.median(one[step] for one in runs) for step in STEPS}
            for size, runs in taken.items()
        }
    )
