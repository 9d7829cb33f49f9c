"""The containers of a service and where a proxy finds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import build_catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.configs import render_configs
from ansible_collections.memoryark.ops.plugins.plugin_utils.instances import instances, upstreams
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue, Mount
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import ProblemsError
from ansible_collections.memoryark.ops.plugins.plugin_utils.quadlet import link_address, render_units
from ansible_collections.memoryark.ops.plugins.plugin_utils.release import build_release, reserved_memory
from compose_samples import smallest, sources

ROUTE = {"routes": [{"host": "h.test", "path": "/", "port": 3000}]}


def rolling(replicas: int = 1, order: str = "start-first", id_range: int = 2, **keys: Any) -> dict[str, Any]:
    """A service that serves on while it is changed."""
    deploy = {"replicas": replicas, "update_config": {"order": order}}
    extension = {"id_range": id_range, **ROUTE, **keys.pop("extension", {})}
    return smallest(deploy=deploy, **{"x-memoryark": extension}, **keys)


def catalogue(**services: dict[str, Any]) -> Catalogue:
    return with_range("10.1.0.0/25", services)


def with_range(ip_range: str, services: dict[str, Any]) -> Catalogue:
    """The services and a proxy, on a network with a range for containers without an address of their own."""
    live = {"config": {"reload_signal": "SIGHUP"}}
    proxy = smallest(volumes=["./proxy/config:/etc/proxy:ro"], **{"x-memoryark": live})
    found = sources({"proxy": proxy, **services})
    found.documents[0].tree["networks"]["front"]["ipam"]["config"][0]["ip_range"] = ip_range
    return build_catalogue(found)


@pytest.mark.parametrize(
    ("service", "units", "addresses"),
    [
        (smallest(**{"x-memoryark": {"id_range": 2}}), ["memoryark-app"], [None]),
        (rolling(), ["memoryark-app", "memoryark-app-next"], ["10.1.0.137", "10.1.0.136"]),
        (
            rolling(2),
            ["memoryark-app", "memoryark-app-2", "memoryark-app-next"],
            ["10.1.0.137", "10.1.0.138", "10.1.0.136"],
        ),
        (rolling(2, "stop-first"), ["memoryark-app", "memoryark-app-2"], ["10.1.0.137", "10.1.0.138"]),
        (rolling(1, "stop-first"), ["memoryark-app"], [None]),
        (rolling(id_range=15), ["memoryark-app", "memoryark-app-next"], ["10.1.0.241", "10.1.0.240"]),
    ],
)
def test_instances(service: dict[str, Any], units: list[str], addresses: list[str | None]) -> None:
    made = catalogue(app=service)
    found = instances(made.services["app"], made)
    assert [instance.unit for instance in found] == units
    assert [instance.addresses.get("front") for instance in found] == addresses
    quadlets, _systemd = render_units(made, "/srv/ark")
    for unit, address in zip(units, addresses, strict=True):
        text = quadlets[f"{unit}.container"]
        assert ("\nWantedBy=memoryark.target" in text) == (not unit.endswith("-next"))
        assert f"\nContainerName={unit.removeprefix('memoryark-')}\n" in text
        fixed = f",ip={address},mac={link_address(address)}" if address else ""
        network = f"Network=front-net:alias=app{fixed}"
        assert f"\n{network}\n" in text


def test_others_wait_for_all_containers_that_always_run() -> None:
    quadlets, _systemd = render_units(
        catalogue(app=rolling(2), user=smallest(depends_on=["app"], **{"x-memoryark": {"id_range": 3}})),
        "/srv",
    )
    after = [line for line in quadlets["memoryark-user.container"].splitlines() if line.startswith("After=")]
    assert after == ["After=memoryark-app.service", "After=memoryark-app-2.service"]


def test_a_proxy_knows_every_container_by_a_line_of_its_own(tmp_path: Path) -> None:
    made = catalogue(app=rolling(2), single=smallest(**{"x-memoryark": {"id_range": 3}}))
    (upstream,) = upstreams(made.services["proxy"], made)
    assert (upstream.name, [address for address, _instance in upstream.servers]) == (
        "app-3000",
        ["10.1.0.137", "10.1.0.138", "10.1.0.136"],
    )
    template = Path("stack/nginx-proxy/config/upstreams.conf.j2").read_text(encoding="utf-8")
    (tmp_path / "proxy" / "config").mkdir(parents=True)
    (tmp_path / "proxy" / "config" / "upstreams.conf.j2").write_text(template)
    text = render_configs(tmp_path, made, {})["proxy"]["upstreams.conf"]
    assert [line for line in text.splitlines() if "# instance" in line] == [
        "    server 10.1.0.137:3000 max_fails=1 fail_timeout=5s; # instance memoryark-app",
        "    server 10.1.0.138:3000 max_fails=1 fail_timeout=5s; # instance memoryark-app-2",
        "#    server 10.1.0.136:3000 max_fails=1 fail_timeout=5s; # instance memoryark-app-next",
    ]


@pytest.mark.parametrize(
    ("depends_on", "problems"),
    [
        (["app"], []),
        (["between"], []),
        (
            [],
            [
                f"{{stack}}/proxy/compose.yml: services.proxy.depends_on: it sends requests to {name}, "
                f"which starts no earlier; add {name}."
                for name in ("app", "between")
            ],
        ),
    ],
)
def test_a_proxy_starts_after_what_it_sends_requests_to(
    tmp_path: Path, depends_on: list[str], problems: list[str]
) -> None:
    between = rolling(
        id_range=3, depends_on=["app"], extension={"routes": [{**ROUTE["routes"][0], "path": "/b/"}]}
    )
    made = catalogue(app=rolling(), between=between)
    proxy = replace(made.services["proxy"], depends_on=tuple(depends_on))
    made = replace(made, services={**made.services, "proxy": proxy})
    if depends_on == ["app"]:
        made = replace(made, services={name: made.services[name] for name in ("proxy", "app")})
    (tmp_path / "proxy" / "config").mkdir(parents=True)
    template = Path("stack/nginx-proxy/config/upstreams.conf.j2").read_text(encoding="utf-8")
    (tmp_path / "proxy" / "config" / "upstreams.conf.j2").write_text(template)
    try:
        build_release(made, tmp_path, "/srv", {})
        found = []
    except ProblemsError as error:
        found = [str(problem).replace(tmp_path.name, "{stack}") for problem in error.problems]
    assert found == problems


def test_all_that_is_wrong_with_a_release_comes_at_once(tmp_path: Path) -> None:
    """A key that Podman does not know, a template that fails, and a proxy that starts too early."""
    made = catalogue(app=rolling())
    proxy = replace(made.services["proxy"], dns=("192.0.2.53\nMemory=1g",), depends_on=())
    app = replace(
        made.services["app"],
        mounts=(*made.services["app"].mounts, Mount("config", "./app/config", "/etc/app", True)),
    )
    folders = [tmp_path / name / "config" for name in ("proxy", "app")]
    for folder in folders:
        folder.mkdir(parents=True)
    template = Path("stack/nginx-proxy/config/upstreams.conf.j2").read_text(encoding="utf-8")
    (folders[0] / "upstreams.conf.j2").write_text(template)
    (folders[1] / "bad.conf.j2").write_text("{{ nowhere.to_be_found }}")
    with pytest.raises(ProblemsError) as caught:
        build_release(
            replace(made, services={**made.services, "proxy": proxy, "app": app}), tmp_path, "/srv", {}
        )
    said = str(caught.value)
    assert "Memory is no [Container] key" in said
    assert "bad.conf.j2" in said


def test_a_proxy_on_no_common_network_knows_none() -> None:
    made = catalogue(app=rolling())
    elsewhere = replace(made.services["proxy"], networks=())
    assert upstreams(elsewhere, made) == []


def test_the_release_has_an_entry_for_each_container() -> None:
    made = catalogue(app=rolling(2))
    entries = [
        entry
        for entry in build_release(
            replace(made, services={"app": made.services["app"]}), Path("stack"), "/srv", {}
        )["services"]
        if entry["name"] == "app"
    ]
    assert [(entry["unit"], entry["surge"], entry["rolling"], entry["ports"]) for entry in entries] == [
        ("memoryark-app", False, True, [3000]),
        ("memoryark-app-2", False, True, [3000]),
        ("memoryark-app-next", True, True, [3000]),
    ]


def test_memory_is_reserved_for_all_and_for_one_that_stands_in() -> None:
    reserving = {"resources": {"reservations": {"memory": "32M"}}}
    app = rolling(2)
    app["deploy"]["resources"]["reservations"] = reserving["resources"]["reservations"]
    assert reserved_memory(catalogue(app=app)) == 3 * 32 * 2**20
    _quadlets, systemd = render_units(catalogue(app=app), "/srv")
    assert f"MemoryLow={2 * 32 * 2**20}\n" in systemd["memoryark.slice"]


ORDER, REPLICAS = "deploy.update_config.order", "deploy.replicas"


@pytest.mark.parametrize(
    ("service", "message"),
    [
        (
            rolling(ports=["80:80"]),
            f"{ORDER}: is not possible: only one container at a time can have its ports",
        ),
        (
            rolling(networks={"front": {"ipv4_address": "10.1.0.9"}}),
            f"{ORDER}: is not possible: only one container at a time can have its addresses",
        ),
        (
            rolling(7, id_range=16),
            f"{REPLICAS}: needs 8 addresses after the ip_range of network front, where there are 7",
        ),
        (
            rolling(id_range=17),
            f"{ORDER}: needs 2 addresses after the ip_range of network front, where there are 0",
        ),
        (
            rolling(volumes=["photos:/p"]),
            f"{ORDER}: is not possible: two containers would write to volume photos",
        ),
        (
            rolling(volumes=["photos:/p"], extension={"databases": ["photos:a.db"]}),
            f"{ORDER}: is not possible: only one container at a time can have its databases",
        ),
    ],
)
def test_what_cannot_be_rolled(service: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemsError) as caught:
        catalogue(app=service)
    assert any(message in str(problem) for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize("ip_range", ["10.9.0.0/25", "many", "10.1.0.0/16"])
def test_a_range_is_part_of_a_subnet(ip_range: str) -> None:
    with pytest.raises(ProblemsError, match=f"ip_range {ip_range} is no part of one of its IPv4 subnets"):
        with_range(ip_range, {"app": smallest(**{"x-memoryark": {"id_range": 2}})})


def test_names_of_containers_do_not_meet() -> None:
    other = smallest(**{"x-memoryark": {"id_range": 3}})
    with pytest.raises(ProblemsError, match=r"container name 'app-2' is claimed by app and app-2"):
        catalogue(**{"app": rolling(2), "app-2": other})
