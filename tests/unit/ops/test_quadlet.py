"""Every supported Compose key, and what it becomes in the unit."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import build_catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.quadlet import (
    CONTAINER_KEYS,
    LATER_KEYS,
    link_address,
    quote,
    refused_keys,
    render_check,
    render_units,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.schema import load_schema
from compose_samples import DIGEST, smallest, sources
from hypothesis import given
from hypothesis import strategies as st


def rendered_units(change: dict[str, Any]) -> str:
    """The unit of the smallest service with ``change``."""
    other = smallest(**{"x-memoryark": {"id_range": 99}})
    found = sources({"app": smallest(**change), "other": other}, secrets={"key"})
    quadlets, _systemd = render_units(build_catalogue(found), "/srv/ark")
    return quadlets["memoryark-app.container"]


def rendered(**change: Any) -> dict[str, list[str]]:
    """The lines of that unit, by section."""
    sections: dict[str, list[str]] = {}
    for line in rendered_units(change).splitlines():
        if line.startswith("["):
            sections[line.strip("[]")] = current = []
        elif line:
            current.append(line)
    return sections


CASES: list[tuple[str, dict[str, Any], str, list[str]]] = [
    ("image", {}, "Container", [f"Image=registry.test/app{DIGEST}", "Pull=never"]),
    ("container_name", {"container_name": "one"}, "Container", ["ContainerName=one"]),
    ("command", {"command": "run --now 'two words'"}, "Container", ['Exec=run --now "two words"']),
    ("command", {"command": ["a", 'say "$$HOME" 5%']}, "Container", ['Exec=a "say \\"$$HOME\\" 5%%"']),
    ("entrypoint", {"entrypoint": ["/bin/tini", "--"]}, "Container", ['Entrypoint=["/bin/tini", "--"]']),
    ("environment", {"environment": {"A": True, "B": 5}}, "Container", ["Environment=A=true", "Environment=B=5"]),
    ("environment", {"environment": ["A=two words"]}, "Container", ['Environment="A=two words"']),
    ("environment", {"environment": {"A": "50% of $$X"}}, "Container", ['Environment="A=50%% of $$X"']),
    ("user", {"user": "1001:1002"}, "Container", ["User=1001", "Group=1002"]),
    ("user", {"user": 1001}, "Container", ["User=1001"]),
    ("working_dir", {"working_dir": "/app"}, "Container", ["WorkingDir=/app"]),
    ("hostname", {"hostname": "ark"}, "Container", ["HostName=ark"]),
    ("networks", {}, "Container", ["Network=front-net:alias=app"]),
    ("networks", {"networks": {"front": {"aliases": ["x"], "ipv4_address": "10.1.0.9", "ipv6_address": "fd00::9"}}}, "Container", ["Network=front-net:alias=app,alias=x,ip=10.1.0.9,ip6=fd00::9,mac=02:44:0a:01:00:09"]),
    ("networks", {"networks": ["back"]}, "Container", ["Network=front-net:alias=app", "Network=back-net:alias=app"]),
    ("ports", {"ports": ["80:8080", "127.0.0.1:53:53/udp", "[::1]:81:81"]}, "Container", ["PublishPort=80:8080/tcp", "PublishPort=127.0.0.1:53:53/udp", "PublishPort=[::1]:81:81/tcp"]),
    ("ports", {"ports": ["80:8080"]}, "Service", ["LogRateLimitIntervalSec=0"]),
    ("ports", {"ports": [{"target": 8080, "published": "80", "host_ip": "10.0.0.1"}]}, "Container", ["PublishPort=10.0.0.1:80:8080/tcp"]),
    ("volumes", {"volumes": ["photos:/p"]}, "Container", ["Volume=/srv/ark/photos:/p:rw,nosuid,nodev,noexec,idmap"]),
    ("volumes", {"volumes": [{"type": "volume", "source": "queue", "target": "/q", "read_only": True}]}, "Container", ["Volume=memoryark-queue:/q:ro,nosuid,nodev,noexec"]),
    ("volumes", {"volumes": ["./app/config:/etc/app:ro"]}, "Container", ["Volume=/srv/ark/config/app/{config}:/etc/app:ro,nosuid,nodev,noexec,idmap"]),
    ("tmpfs", {"tmpfs": "/tmp:size=1m"}, "Container", ["Tmpfs=/tmp:size=1m"]),
    ("secrets", {"secrets": ["key"]}, "Container", ["Secret={secret:key},type=mount,target=key,uid=0,gid=0,mode=0400"]),
    ("secrets", {"secrets": [{"source": "key", "target": "/k", "uid": "33", "gid": 33, "mode": 0o440}]}, "Container", ["Secret={secret:key},type=mount,target=/k,uid=33,gid=33,mode=0440"]),
    ("depends_on", {"depends_on": ["other"]}, "Unit", ["Wants=memoryark-other.service", "After=memoryark-other.service"]),
    ("depends_on", {"depends_on": {"other": {"condition": "service_healthy"}}}, "Unit", ["Wants=memoryark-other.service", "After=memoryark-other.service"]),
    ("stop_grace_period", {"stop_grace_period": "1m"}, "Container", ["StopTimeout=60"]),
    ("stop_grace_period", {"stop_grace_period": "1m"}, "Service", ["TimeoutStopSec=75s"]),
    ("stop_signal", {"stop_signal": "SIGQUIT"}, "Container", ["StopSignal=SIGQUIT"]),
    ("init", {"init": True}, "Container", ["RunInit=true"]),
    ("read_only", {}, "Container", ["ReadOnly=true", "ReadOnlyTmpfs=false"]),
    ("cap_drop", {}, "Container", ["DropCapability=all"]),
    ("cap_add", {"cap_add": ["CHOWN"]}, "Container", ["AddCapability=CHOWN"]),
    ("security_opt", {}, "Container", ["NoNewPrivileges=true"]),
    ("sysctls", {"sysctls": {"net.core.somaxconn": 1024}}, "Container", ["Sysctl=net.core.somaxconn=1024"]),
    ("ulimits", {"ulimits": {"nofile": 1024, "core": {"soft": 0, "hard": 1}}}, "Container", ["Ulimit=nofile=1024:1024", "Ulimit=core=0:1"]),
    ("extra_hosts", {"extra_hosts": ["a.test=10.0.0.1"]}, "Container", ["AddHost=a.test:10.0.0.1"]),
    ("dns", {"dns": "10.0.0.1"}, "Container", ["DNS=10.0.0.1"]),
    ("dns_search", {"dns_search": ["a.test"]}, "Container", ["DNSSearch=a.test"]),
    ("labels", {"labels": {"a": "b c"}}, "Container", ['Label="a=b c"']),
    ("shm_size", {"shm_size": "1m"}, "Container", ["ShmSize=1048576"]),
    ("x-memoryark", {}, "Container", ["UIDMap=0:100000:65536", "GIDMap=0:100000:65536"]),
    ("x-memoryark", {"x-memoryark": {"id_range": 3}}, "Container", ["UIDMap=0:231072:65536"]),
    ("x-memoryark", {"x-memoryark": {"secret_environment": {"KEY": "key"}}}, "Container", ["Secret={secret:key},type=env,target=KEY"]),
    ("deploy", {}, "Container", ["PidsLimit=256", "PodmanArgs=--memory=67108864 --memory-swap=67108864 --cpus=0.5"]),
    ("deploy", {"deploy": {"resources": {"limits": {"pids": 7}}}}, "Container", ["PidsLimit=7"]),
    ("deploy", {"deploy": {"resources": {"reservations": {"cpus": "0.5", "memory": "32M"}}}}, "Service", ["MemoryLow=33554432", "CPUWeight=50"]),
    ("deploy", {}, "Service", ["CPUWeight=10"]),
    ("deploy", {"deploy": {"restart_policy": {"condition": "none"}}}, "Service", ["Restart=no"]),
    ("deploy", {"deploy": {"restart_policy": {"condition": "on-failure", "delay": "2s"}}}, "Service", ["Restart=on-failure", "RestartSec=2s"]),
    ("deploy", {}, "Unit", ["StartLimitIntervalSec=0"]),
    # A start may take 3 x (30 s + 30 s) + 60 s = 240 s here; three of those windows and delays.
    ("deploy", {"deploy": {"restart_policy": {"delay": "5s", "max_attempts": 3, "window": "120s"}}}, "Unit", ["StartLimitBurst=4", "StartLimitIntervalSec=735s"]),
    ("deploy", {"deploy": {"restart_policy": {"delay": "5s", "max_attempts": 2, "window": "10m"}}}, "Unit", ["StartLimitBurst=3", "StartLimitIntervalSec=1210s"]),
    ("healthcheck", {"healthcheck": {"test": "curl x | grep y"}}, "Container", ['HealthCmd=["/bin/sh", "-c", "curl x | grep y"]']),
    ("healthcheck", {"healthcheck": {"test": ["CMD-SHELL", "test $$A"]}}, "Container", ['HealthStartupCmd=["/bin/sh", "-c", "test $$A"]']),
    ("healthcheck", {"healthcheck": {"interval": "10s", "timeout": "2s", "retries": 5, "start_period": "1m", "start_interval": "1s"}}, "Container", ["HealthInterval=10s", "HealthTimeout=2s", "HealthRetries=5", "HealthStartPeriod=60s", "HealthStartupInterval=1s", "HealthStartupTimeout=2s", "HealthStartupRetries=0", "HealthOnFailure=kill", "Notify=healthy"]),
    ("healthcheck", {"healthcheck": {"interval": "10s", "timeout": "2s", "retries": 5, "start_period": "1m"}}, "Service", ["TimeoutStartSec=180s"]),
]  # fmt: skip


@pytest.mark.parametrize(("key", "change", "section", "lines"), CASES)
def test_key(key: str, change: dict[str, Any], section: str, lines: list[str]) -> None:
    unit = rendered(**change)
    assert [line for line in lines if line not in unit[section]] == []


LIVE = {
    "volumes": ["./app/config:/etc/app:ro"],
    "container_name": "one",
    "tmpfs": ["/tmp"],
    "environment": {"A": "1"},
    "secrets": ["key"],
    "x-memoryark": {"config": {"check": ["app", "--check"], "reload_signal": "SIGHUP"}},
}


def test_configuration_that_is_read_anew_has_a_place_where_it_can_change() -> None:
    unit = rendered(**LIVE)
    assert "Volume=/run/memoryark/config/app:/etc/app:ro,nosuid,nodev,noexec,idmap" in unit["Container"]
    assert unit["Service"][-3:] == [
        "ExecStartPre=/usr/bin/mkdir --parents /run/memoryark/config/app",
        "ExecStartPre=/usr/bin/cp --recursive --update=none /srv/ark/config/app/{config}/. /run/memoryark/config/app",
        "ExecReload=/usr/bin/podman kill --signal=SIGHUP one",
    ]


def test_a_program_checks_its_configuration_as_the_service_would_see_it() -> None:
    volumes = [*LIVE["volumes"], "photos:/seen:ro", "photos:/written", "queue:/queue"]
    made = build_catalogue(sources({"app": smallest(**{**LIVE, "volumes": volumes})}, secrets={"key"}))
    command = render_check(made.services["app"], made, "/srv/ark")
    assert command[:3] == ["podman", "run", "--rm"]
    assert command[-3:] == ["--entrypoint=app", f"registry.test/app{DIGEST}", "--check"]
    assert {
        "--network=none",
        "--uidmap=0:100000:65536",
        "--tmpfs=/tmp",
        "--env=A=1",
        "--secret={secret:key},type=mount,target=key,uid=0,gid=0,mode=0400",
        "--volume=/srv/ark/config/app/{config}:/etc/app:ro,nosuid,nodev,noexec,idmap",
        "--volume=/srv/ark/photos:/seen:ro,nosuid,nodev,noexec,idmap",
    } <= set(command)
    assert len([word for word in command if word.startswith("--volume=")]) == 2, "nothing can be written"


@pytest.mark.parametrize("change", [{}, {"volumes": LIVE["volumes"]}])
def test_no_check_where_there_is_nothing_to_check(change: dict[str, Any]) -> None:
    made = build_catalogue(sources({"app": smallest(**change)}))
    assert render_check(made.services["app"], made, "/srv/ark") == []


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.0.9", "02:44:0a:01:00:09"),
        ("10.0.0.255", "02:44:0a:00:00:ff"),
        # sha256 of the 16 octets.
        ("fd00::9", "02:46:69:fd:48:42"),
    ],
)
def test_a_fixed_address_has_a_link_address_of_its_own(address: str, expected: str) -> None:
    assert link_address(address) == expected


def test_addresses_of_one_subnet_that_end_alike_have_different_link_addresses() -> None:
    assert link_address("fd00:0:0:1:a::10") != link_address("fd00:0:0:1:b::10")


# They say something about the image or to other tools, not about the unit.
ELSEWHERE = {"build", "expose"}


def test_every_supported_key_is_in_the_table() -> None:
    supported = set(load_schema()["properties"]["services"]["additionalProperties"]["properties"])
    assert supported - ELSEWHERE == {key for key, *_case in CASES}


@pytest.mark.parametrize("change", [case[1] for case in CASES])
def test_only_keys_that_podman_knows(change: dict[str, Any]) -> None:
    lines = rendered(**change)["Container"]
    assert {line.partition("=")[0] for line in lines} <= CONTAINER_KEYS


def test_a_service_without_networks_has_none() -> None:
    raw = smallest()
    del raw["networks"]
    quadlets, _systemd = render_units(build_catalogue(sources({"app": raw})), "/srv/ark")
    assert "\nNetwork=none\n" in quadlets["memoryark-app.container"]


def test_the_slice_guarantees_what_its_containers_reserve_and_comes_first() -> None:
    reserving = {"deploy": {"resources": {"reservations": {"memory": "32M"}}}}
    services = {"a": smallest(**reserving), "b": smallest(**reserving, **{"x-memoryark": {"id_range": 2}})}
    _quadlets, systemd = render_units(build_catalogue(sources(services)), "/srv/ark")
    assert f"MemoryLow={64 * 2**20}\n" in systemd["memoryark.slice"]
    assert "CPUWeight=500\n" in systemd["memoryark.slice"]


def test_a_boot_makes_networks_before_all_containers_and_not_while_a_release_is_tried() -> None:
    found = sources({"a": smallest(), "b": smallest(**{"x-memoryark": {"id_range": 2}})})
    quadlets, systemd = render_units(build_catalogue(found), "/srv/ark")
    unit = systemd["memoryark-networks.service"].splitlines()
    assert [line for line in unit if line.startswith("Before=")] == [
        "Before=memoryark-a.service",
        "Before=memoryark-b.service",
    ]
    assert "ConditionPathExists=!/run/systemd/system/memoryark.target" in unit
    assert "Wants=memoryark-networks.service" in systemd["memoryark.target"].splitlines()
    # What it needs is no part of a container's unit, which would otherwise be started anew for it.
    assert not [text for text in quadlets.values() if "memoryark-networks" in text]


@pytest.mark.parametrize(
    ("unit", "messages"),
    [
        ("[Container]\nImage=x\n", []),
        ("[Service]\nMemory=5\n", []),
        (
            "[Container]\nMemory=5\n",
            ["Memory is no [Container] key of Podman 5.4.2; it came with Podman 5.5"],
        ),
        ("[Container]\nImagee=5\n", ["Imagee is no [Container] key of Podman 5.4.2"]),
    ],
)
def test_keys_of_other_podmans_are_refused(unit: str, messages: list[str]) -> None:
    assert refused_keys(unit) == messages


def test_the_tables_do_not_overlap() -> None:
    assert not CONTAINER_KEYS & set(LATER_KEYS)


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"])))
def test_quoting_leaves_one_line_without_bare_specifiers(text: str) -> None:
    quoted = quote(text)
    assert "\n" not in quoted
    assert quoted.replace("%%", "").count("%") == 0
    assert quoted.replace("$$", "").count("$") == 0
