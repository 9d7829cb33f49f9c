"""The peer keeps the same things as the catalogue says, apart from ours on the same host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import build_catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue
from compose_samples import smallest, sources

from tests.bench import peer

APP = smallest(
    container_name="app-1",
    networks={"front": {"aliases": ["web"]}, "back": None},
    ports=["80:8080"],
    volumes=["photos:/photos", "queue:/queue", "./app/config:/etc/app:ro"],
    tmpfs=["/tmp", "/big:size=1m"],
    environment={"A": "1"},
    stop_signal="SIGQUIT",
    healthcheck={"test": ["CMD", "check", "two words"], "interval": "2m"},
    secrets=[{"source": "key", "target": "key", "uid": "33", "mode": 0o440}],
    depends_on={"store": {"condition": "service_healthy"}},
    **{"x-memoryark": {"id_range": 2, "secret_environment": {"TOKEN": "token"}}},
)
STORE = smallest(**{"x-memoryark": {"id_range": 3}})
CONFIGS = {"app": {"app.conf": "a", "rules/one.yml": "b"}}


def catalogue() -> Catalogue:
    wanted = sources({"app": APP, "store": STORE}, secrets={"key", "token"})
    wanted.documents[1].tree["secrets"] = {"key": {"external": True}, "token": {"external": True}}
    return peer.apart(build_catalogue(wanted))


def tasks() -> list[dict[str, Any]]:
    return peer.tasks(catalogue(), CONFIGS, "/files")


def options(module: str) -> list[dict[str, Any]]:
    """The options of all tasks of a module."""
    return [task[module] for task in tasks() if module in task]


@pytest.mark.parametrize(
    ("address", "shifted"),
    [
        ("10.89.2.0/24", "10.189.2.0/24"),
        ("10.89.2.7", "10.189.2.7"),
        ("fd4d:656d:6f72:1::/64", "fd4d:656d:6f73:1::/64"),
    ],
)
def test_addresses_are_apart_from_ours(address: str, shifted: str) -> None:
    assert peer.shifted(address) == shifted


def test_there_is_one_task_for_each_object() -> None:
    counts = {
        "containers.podman.podman_network": 2,
        "containers.podman.podman_volume": 1,
        "containers.podman.podman_image": 2,
        "containers.podman.podman_secret": 2,
        "containers.podman.podman_container": 2,
        "ansible.builtin.copy": 2,
    }
    assert {module: len(options(module)) for module in counts} == counts
    titles = [task["name"] for task in tasks()]
    assert len(set(titles)) == len(titles)


def test_networks_have_the_gateways_that_podman_would_choose() -> None:
    front, back = options("containers.podman.podman_network")
    assert front["name"] == "peer-front-net"
    assert front["net_config"] == [
        {"subnet": "10.101.0.0/24", "gateway": "10.101.0.1"},
        {"subnet": "fd00:0:1::/64", "gateway": "fd00:0:1::1"},
    ]
    assert (front["internal"], back["internal"]) == (False, True)
    assert front["opt"] == {"bridge_name": "peer-front"}


def test_directories_come_before_what_is_in_them() -> None:
    paths = [entry["path"].removeprefix("/srv/peer/") for entry in options("ansible.builtin.file")]
    assert paths == sorted(paths)
    assert {"photos", "config", "config/app", "config/app/rules"} <= set(paths)


def test_secrets_are_named_and_their_values_are_nowhere() -> None:
    made = [task for task in tasks() if "containers.podman.podman_secret" in task]
    assert all(task["no_log"] for task in made)
    assert made[0]["containers.podman.podman_secret"] == {
        "name": "peer-key",
        "data": "{{ memoryark_secrets['key'] }}",
    }


def test_the_proxy_finds_the_inventorys_certificate() -> None:
    wanted = sources({"app": smallest(volumes=["tls:/srv/tls:ro"])})
    volume = {"tls": {"x-memoryark": {"directory": "tls", "group": 33}}}
    wanted.documents[0].tree["volumes"] |= volume
    made = peer.certificate_tasks(peer.apart(build_catalogue(wanted)))
    copies = {task["ansible.builtin.copy"]["dest"]: task for task in made[1:]}
    assert made[0]["ansible.builtin.file"]["path"] == "/srv/peer/tls/current"
    assert set(copies) == {f"/srv/peer/tls/current/{name}" for name in ("fullchain.pem", "privkey.pem")}
    assert all(task["no_log"] for task in copies.values())
    key = copies["/srv/peer/tls/current/privkey.pem"]["ansible.builtin.copy"]
    assert (key["content"], key["group"], key["mode"]) == ("{{ memoryark_secrets.tls_key }}", "33", "0640")
    assert peer.certificate_tasks(catalogue()) == []


def test_a_container_has_the_same_limits_mounts_secrets_and_checks() -> None:
    found = next(one for one in options("containers.podman.podman_container") if one["name"] == "peer-app-1")
    wanted = {
        "memory": str(64 * 2**20),
        "cpus": "0.5",
        "pids_limit": "256",
        "network": ["peer-front-net:alias=app,alias=web", "peer-back-net:alias=app"],
        "publish": ["10080:8080/tcp"],
        "volume": [
            "/srv/peer/photos:/photos:rw,nosuid,nodev,noexec,idmap",
            "peer-memoryark-queue:/queue:rw,nosuid,nodev,noexec",
            "/srv/peer/config/app:/etc/app:ro,nosuid,nodev,noexec,idmap",
        ],
        "tmpfs": {"/tmp": "rw", "/big": "size=1m"},
        "secrets": [
            "peer-token,type=env,target=TOKEN",
            "peer-key,type=mount,target=key,uid=33,gid=0,mode=0440",
        ],
        "env": {"A": "1"},
        "uidmap": ["0:165536:65536"],
        "stop_signal": 3,
        "healthcheck": "check 'two words'",
        "healthcheck_interval": "120s",
        "read_only": True,
        "cap_drop": ["all"],
    }
    assert {key: found[key] for key in wanted} == wanted


def test_containers_start_after_what_they_need() -> None:
    names = [one["name"] for one in options("containers.podman.podman_container")]
    assert names == ["peer-store", "peer-app-1"]


def test_a_changed_configuration_reaches_its_service() -> None:
    notified = {task["notify"] for task in tasks() if "ansible.builtin.copy" in task}
    assert notified == {handler["name"] for handler in peer.handlers(catalogue(), CONFIGS)}


def test_the_playbook_gathers_no_facts_as_ours_gathers_none() -> None:
    host_part, objects = peer.playbook(catalogue(), CONFIGS, "/files", "/host.yml")
    assert host_part["ansible.builtin.import_playbook"] == "/host.yml"
    assert objects["gather_facts"] is False
