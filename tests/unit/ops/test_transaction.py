"""A release comes whole or not at all, wherever it is stopped."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.module_utils import databases, networks
from ansible_collections.memoryark.ops.plugins.module_utils import rolling as rolling_module
from ansible_collections.memoryark.ops.plugins.module_utils.host import UNIT_LABEL, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.images import TAGS
from ansible_collections.memoryark.ops.plugins.module_utils.store import PRESENT_MANIFEST, Store
from ansible_collections.memoryark.ops.plugins.modules.release import deploy
from ansible_collections.memoryark.ops.plugins.modules.release_info import look
from ansible_collections.memoryark.ops.plugins.modules.rollback import roll_back
from machine import NETWORKS, PLAIN, Machine, PowerCutError, image

ROOT = "/srv/ark"
DATABASE = f"{ROOT}/data/a.db"


# Each layout has a port that the other has not.
OPENED: dict[str, dict[str, list[str]]] = {
    "first": {"published_tcp": ["443", "80"], "egress": ["ark-net . tcp . 443"]},
    "second": {"published_tcp": ["443", "8443"]},
}


def network(name: str, subnet: str) -> dict[str, Any]:
    return {"name": name, "interface": name, "internal": False, "ipv6": False, "subnets": [subnet]}


def release(
    value: str = "first",
    text: str = "one",
    subnet: str = "10.1.0.0/24",
    layout: str = "first",
    more: str = "next",
    **images: str,
) -> dict[str, Any]:
    """Parameters of the module: services a, b, ... in a chain, of these images.

    ``value`` is the secret of all of them. ``a`` has a database, which each image migrates, and it has a file
    of configuration with its image's name, ``b`` one with ``text`` which it reads anew when it is told to, and
    is on a network with ``subnet``; another is there as well. In the second ``layout`` the first
    network has the addresses of that, and a new one those of the first. ``aw`` has as many containers as ``more`` has words, and one.
    """
    names = sorted(images)
    suffixes = {name: ["", *(f"-{word}" for word in more.split() if name == "aw")] for name in names}
    return {
        "root": ROOT,
        "quadlets": {
            f"memoryark-{name}{suffix}.container": unit(name, images[name])
            for name in names
            for suffix in suffixes[name]
        },
        "systemd_units": {"memoryark.target": "[Unit]\n", networks.UNIT: "[Service]\n"},
        "configs": {"a": {"a.conf": f"image {images.get('a')}\n"}, "b": {"b.conf": text}},
        "services": [
            {
                **PLAIN,
                "name": name,
                "unit": f"memoryark-{name}{suffix}",
                "image": f"r.test/{images[name]}@sha256:0",
                "level": level,
                "live": name == "b",
                "databases": [DATABASE] if name == "a" else [],
                "check": ["podman", "run", f"{ROOT}/config/b/{{config}}"] if name == "b" else [],
                "rolling": name == "aw" and bool(more),
                "surge": suffix == "-next",
                "ports": [3000],
            }
            for level, name in enumerate(names)
            for suffix in suffixes[name]
        ],
        "networks": [network("ark-net", "10.3.0.0/24"), network("ark-new", subnet)]
        if layout == "second"
        else [network("ark-net", subnet), network("ark-old", "10.3.0.0/24")],
        "openings": OPENED[layout],
        "secrets": {"token": value},
        "archives": {},
        "builds": [],
        "tags": {},
        "by": "operator@control",
        "commit": "abc123",
        "version": 2,
    }


def back(to: int | None = None) -> dict[str, Any]:
    """Parameters of the rollback module."""
    return {"root": ROOT, "to": to, "by": "operator@control", "commit": ""}


UNIT = """[Unit]

[Container]
Image=r.test/{version}@sha256:0
Secret={{secret:token}},type=env
{more}
"""
MORE = {
    "a": f"Volume={ROOT}/config/a/{{config}}:/etc/a\nDatabase={DATABASE}",
    "c": "Network=ark-old:alias=c",
    "b": f"Network=ark-net:alias=b\nExecStartPre=cp --update=none {ROOT}/config/b/{{config}}/. /run/memoryark/config/b",
}


def unit(name: str, version: str) -> str:
    return UNIT.format(version=version, more=MORE.get(name, ""))


def versions(machine: Machine) -> dict[str, str]:
    """What runs: version by service."""
    return {
        name.removeprefix("memoryark-"): image(text).removeprefix("r.test/").removesuffix("@sha256:0")
        for name, text in machine.running().items()
    }


def subnets(machine: Machine) -> dict[str, str]:
    """The subnets of the project's networks, by name."""
    return {name: found["subnets"][0]["subnet"] for name, found in machine.networks.items()}


def opened(machine: Machine) -> dict[str, list[str]]:
    """What the firewall opens, by set."""
    return {name: sorted(found) for name, found in (machine.firewall or {}).items() if found}


TEMPLATE = {
    "driver": "bridge",
    "network_interface": "ark-net",
    "internal": False,
    "ipv6_enabled": False,
    "options": {"isolate": "strict"},
}
OLD_NETWORKS = {"ark-net": "10.1.0.0/24", "ark-old": "10.3.0.0/24"}
NEW_NETWORKS = {"ark-net": "10.3.0.0/24", "ark-new": "10.1.0.0/24"}
OLD = {"a": "a1", "b": "b1", "c": "c1"}
NEW = {"a": "a2", "b": "b1", "d": "d1"}
# Everything that a release can change.
CHANGED = release("second", "two", layout="second", **NEW)


@pytest.fixture(autouse=True)
def _disk_without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small files need not be on a real disk here."""
    monkeypatch.setattr(os, "fsync", lambda _handle: None)
    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(rolling_module, "QUIET_SECONDS", 0.0)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    deploy(made.host(), release(**OLD), check=False)
    made.starts.clear()
    made.log.clear()
    return made


def test_a_first_release_runs_and_survives_a_boot(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    result = deploy(machine.host(), release(**OLD), check=False)
    assert (result["changed"], result["release"]) == (True, 1)
    assert versions(machine) == OLD
    machine.cut_power()
    assert versions(machine) == OLD


def test_the_same_release_again_changes_nothing(machine: Machine) -> None:
    result = deploy(machine.host(), release(**OLD), check=False)
    assert result["changed"] is False
    assert machine.starts == {}
    looks = (
        "systemctl show",
        "podman ps",
        "podman image ls",
        "podman secret ls",
        "podman network ls",
        "podman network inspect",
        "nft list",
    )
    assert [command for command in machine.log if not command.startswith(looks)] == []


def test_the_version_of_the_project_is_noted_when_a_release_is_healthy(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    store = Store(machine.host(), ROOT)
    assert store.version() is None
    newer = {**release(**NEW), "version": 3}
    deploy(machine.host(), release(**OLD), check=True)
    assert store.version() is None
    deploy(machine.host(), release(**OLD), check=False)
    assert store.version() == 2
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError):
        deploy(machine.host(), newer, check=False)
    assert store.version() == 2
    # The same release by a newer version of the project: only the note changes.
    same = {**release(**OLD), "version": 3}
    machine.starts.clear()
    shown = deploy(machine.host(), same, check=True)
    assert (shown["changed"], shown["diff"][-1]["after"]) == (True, "3\n")
    assert store.version() == 2
    assert deploy(machine.host(), same, check=False)["changed"] is True
    assert (store.version(), machine.starts) == (3, {})
    assert deploy(machine.host(), same, check=False)["changed"] is False


def test_a_host_that_was_deployed_before_there_were_versions(machine: Machine) -> None:
    store = Store(machine.host(), ROOT)
    (machine.base / "srv/ark/version").unlink()
    assert store.version() == 0
    (machine.base / "srv/ark/version").write_text("two\n")
    with pytest.raises(HostError, match="/srv/ark/version has to hold a number"):
        store.version()


def test_only_what_changed_is_started_and_what_left_is_gone(machine: Machine) -> None:
    result = deploy(machine.host(), release(**NEW), check=False)
    assert result["release"] == 2
    assert result["plan"]["restart"] == ["memoryark-a"]
    assert result["plan"]["create"] == ["memoryark-d"]
    assert result["plan"]["remove"] == ["memoryark-c"]
    assert set(machine.starts) == {"memoryark-a", "memoryark-d"}
    assert versions(machine) == NEW
    machine.cut_power()
    assert versions(machine) == NEW


def test_check_mode_only_looks(machine: Machine) -> None:
    before = sorted(path for path in machine.base.rglob("*"))
    result = deploy(machine.host(), release(**NEW), check=True)
    assert result["changed"] is True
    assert sorted(path for path in machine.base.rglob("*")) == before
    assert versions(machine) == OLD


def test_a_new_secret_restarts_those_that_use_it_and_its_old_version_stays_for_a_rollback(
    machine: Machine,
) -> None:
    deploy(machine.host(), release("second", "two", **OLD), check=False)
    assert set(machine.starts) == {f"memoryark-{name}" for name in OLD}
    assert sorted(machine.secrets.values()) == ["first", "second"]


def test_a_changed_configuration_is_read_anew_without_a_restart(machine: Machine) -> None:
    result = deploy(machine.host(), release(text="two", **OLD), check=False)
    assert result["plan"]["reload"] == ["memoryark-b"]
    assert machine.starts == {}
    assert machine.known["memoryark-b"] == {"b.conf": "two"}
    assert deploy(machine.host(), release(text="two", **OLD), check=False)["changed"] is False
    machine.cut_power()
    assert machine.known["memoryark-b"] == {"b.conf": "two"}
    assert deploy(machine.host(), release(text="two", **OLD), check=False)["changed"] is False


def proxied(more: str = "next") -> str:
    """The configuration of a proxy that sends requests to ``aw``."""
    lines = [
        f"{'#' if word == 'next' else ''}    server {word}; # instance memoryark-aw-{word}"
        for word in more.split()
    ]
    return "\n".join(["    server 1; # instance memoryark-aw", *lines])


def served(machine: Machine) -> set[str]:
    """The units to which the proxy sends requests."""
    lines = machine.known["memoryark-b"]["b.conf"].splitlines()
    return {line.rpartition(" ")[2] for line in lines if line.startswith(" ")}


@pytest.fixture
def rolling(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A host with ``aw`` behind a proxy that is never let down."""
    made = Machine(tmp_path)
    wrongs = []
    old = release(text=proxied(request.param), more=request.param, **OLD, aw="aw1")
    deploy(made.host(), old, check=False)

    def watch(words: list[str]) -> None:
        asked = served(made)
        if not asked & set(made.containers):
            wrongs.append(f"nobody is there for the requests at {words}")
        if words[:2] in (["systemctl", "restart"], ["systemctl", "stop"]):
            stopped = {word.removesuffix(".service") for word in words[2:]} & set(made.containers)
            if stopped & asked:
                wrongs.append(f"{words} while requests go there")

    made.watch = watch
    yield made
    assert wrongs == []


def of_worker(machine: Machine) -> dict[str, str]:
    return {name: version for name, version in versions(machine).items() if name.startswith("aw")}


@pytest.mark.parametrize("rolling", ["next", "2 3 next", "2 3"], indirect=True)
def test_a_rolling_service_serves_while_it_is_changed(
    rolling: Machine, request: pytest.FixtureRequest
) -> None:
    more = request.node.callspec.params["rolling"]
    new = release(text=proxied(more), more=more, **OLD, aw="aw2")
    result = deploy(rolling.host(), new, check=False)
    names = [
        f"memoryark-{name}" for name in ["aw", *(f"aw-{word}" for word in more.split() if word != "next")]
    ]
    assert result["plan"]["roll"] == names
    assert {result["downtime"][name] for name in names} == {"none"}
    assert of_worker(rolling) == {name.removeprefix("memoryark-"): "aw2" for name in names}
    assert served(rolling) == set(names)
    assert deploy(rolling.host(), new, check=False)["changed"] is False


@pytest.mark.parametrize("rolling", ["next", "2 next", "2 3"], indirect=True)
def test_a_bad_release_of_a_rolling_service_is_never_asked(
    rolling: Machine, request: pytest.FixtureRequest
) -> None:
    before, more = of_worker(rolling), request.node.callspec.params["rolling"]
    rolling.broken.add("r.test/aw2@sha256:0")
    new = release(text=proxied(more), more=more, **OLD, aw="aw2")
    with pytest.raises(HostError, match=r"memoryark-aw.* did not become healthy(.|\n)*Release 1 is back"):
        deploy(rolling.host(), new, check=False)
    rolling.pass_restart_delay()
    assert of_worker(rolling) == before
    assert served(rolling) == {f"memoryark-{name}" for name in before}


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
def test_one_that_stands_in_is_not_left_behind_by_a_run_that_was_killed(rolling: Machine) -> None:
    new = release(text=proxied(), **OLD, aw="aw2")
    rolling.broken.add("r.test/aw2@sha256:0")
    for step in range(10_000):
        rolling.power = step
        try:
            deploy(rolling.host(), new, check=False)
        except PowerCutError:
            # The host lives: only the program is gone.
            rolling.power = -1
        except HostError:
            break
        deploy(rolling.host(), release(text=proxied(), **OLD, aw="aw1"), check=False)
        rolling.pass_restart_delay()
        assert of_worker(rolling) == {"aw": "aw1"}, f"after {step} operations"
    assert step > 30


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
def test_a_container_that_dies_just_before_its_turn_is_changed_all_the_same(rolling: Machine) -> None:
    def die(words: list[str]) -> None:
        # The first command that changes something: the plan is made.
        if words[:2] == ["systemctl", "reset-failed"]:
            rolling.containers.pop("memoryark-aw", None)

    rolling.watch = die
    deploy(rolling.host(), release(text=proxied(), **OLD, aw="aw2"), check=False)
    assert of_worker(rolling) == {"aw": "aw2"}
    assert served(rolling) == {"memoryark-aw"}


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
def test_replicas_come_and_go_without_a_gap(rolling: Machine) -> None:
    three = deploy(
        rolling.host(), release(text=proxied("2 3 next"), more="2 3 next", **OLD, aw="aw1"), check=False
    )
    assert three["plan"]["create"] == ["memoryark-aw-2", "memoryark-aw-3"]
    assert served(rolling) == {"memoryark-aw", "memoryark-aw-2", "memoryark-aw-3"}
    one = deploy(rolling.host(), release(text=proxied(), **OLD, aw="aw1"), check=False)
    assert (one["plan"]["retire"], one["plan"]["remove"]) == (["memoryark-aw-2", "memoryark-aw-3"], [])
    assert of_worker(rolling) == {"aw": "aw1"}
    assert served(rolling) == {"memoryark-aw"}


@pytest.mark.parametrize("rolling", ["2 3"], indirect=True)
def test_replicas_go_without_a_gap_until_one_is_left(rolling: Machine) -> None:
    one = deploy(rolling.host(), release(text=proxied(""), more="", **OLD, aw="aw1"), check=False)
    assert (one["plan"]["retire"], one["plan"]["remove"]) == (["memoryark-aw-2", "memoryark-aw-3"], [])
    assert of_worker(rolling) == {"aw": "aw1"}


@pytest.mark.parametrize("rolling", [""], indirect=True)
def test_the_first_replicas_of_a_failed_release_leave_without_a_gap(rolling: Machine) -> None:
    rolling.broken.add("r.test/c2@sha256:0")
    new = release(text=proxied("2 3"), more="2 3", **{**OLD, "c": "c2"}, aw="aw1")
    with pytest.raises(HostError, match="Release 1 is back"):
        deploy(rolling.host(), new, check=False)
    assert of_worker(rolling) == {"aw": "aw1"}
    assert served(rolling) == {"memoryark-aw"}


@pytest.mark.parametrize("rolling", ["next", "2 3 next", "2 3"], indirect=True)
@pytest.mark.parametrize("how", ["broken", "fragile"])
def test_what_was_rolled_rolls_back_when_a_later_service_fails(
    rolling: Machine, how: str, request: pytest.FixtureRequest
) -> None:
    before, more = of_worker(rolling), request.node.callspec.params["rolling"]
    getattr(rolling, how).add("r.test/c2@sha256:0")
    new = release(text=proxied(more), more=more, **{**OLD, "c": "c2"}, aw="aw2")
    with pytest.raises(HostError, match="Release 1 is back and healthy"):
        deploy(rolling.host(), new, check=False)
    assert of_worker(rolling) == before
    assert served(rolling) == {f"memoryark-{name}" for name in before}


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
def test_a_container_that_stands_in_is_watched_before_others_follow(rolling: Machine) -> None:
    rolling.fragile.add("r.test/aw2@sha256:0")
    with pytest.raises(
        HostError, match=r"memoryark-aw-next became healthy and failed(.|\n)*Release 1 is back"
    ):
        deploy(rolling.host(), release(text=proxied(), **OLD, aw="aw2"), check=False)
    assert rolling.starts["memoryark-aw"] == 1


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
def test_one_that_waits_for_its_next_start_keeps_no_migration_from_being_taken_back(rolling: Machine) -> None:
    rolling.watch = lambda _words: None
    rolling.broken.add("r.test/aw2@sha256:0")
    new = release(text=proxied(), **{**OLD, "a": "a2"}, aw="aw2")
    with pytest.raises(
        HostError, match=r"memoryark-aw-next did not become(.|\n)*Release 1 is back and healthy"
    ):
        deploy(rolling.host(), new, check=False)
    assert rolling.tables(DATABASE) == ["a1"]
    assert versions(rolling) == {**OLD, "aw": "aw1"}


def test_one_that_waits_for_its_next_start_keeps_no_database_from_being_copied(machine: Machine) -> None:
    del machine.containers["memoryark-c"]
    machine.waiting.add("memoryark-c")
    deploy(machine.host(), release(**{**OLD, "a": "a2"}), check=False)
    assert versions(machine) == {**OLD, "a": "a2"}
    assert machine.tables(f"{ROOT}/backups/releases/2/data/a.db") == ["a1"]


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
def test_a_release_goes_back_after_a_roll_without_a_gap(rolling: Machine) -> None:
    deploy(rolling.host(), release(text=proxied("2 next"), more="2 next", **OLD, aw="aw2"), check=False)
    assert roll_back(rolling.host(), back(), check=False)["plan"]["roll"] == ["memoryark-aw"]
    assert of_worker(rolling) == {"aw": "aw1"}


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
@pytest.mark.parametrize("step", range(40, 120, 4))
def test_a_killed_change_is_taken_back_without_a_gap(rolling: Machine, step: int) -> None:
    rolling.power = step
    with suppress(PowerCutError):
        deploy(rolling.host(), release(text=proxied("2 next"), more="2 next", **OLD, aw="aw2"), check=False)
    rolling.power = -1
    deploy(rolling.host(), release(text=proxied(), **OLD, aw="aw1"), check=False)
    assert of_worker(rolling) == {"aw": "aw1"}
    assert served(rolling) == {"memoryark-aw"}


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
def test_what_an_interrupted_change_left_stands_in_for_no_other_version(rolling: Machine) -> None:
    step = 0
    while "memoryark-aw-next" not in rolling.containers:
        rolling.power = step = step + 1
        with suppress(PowerCutError):
            deploy(rolling.host(), release(text=proxied(), **OLD, aw="aw2"), check=False)
        rolling.power = -1
        assert of_worker(rolling).get("aw") == "aw1"
    before = rolling.starts["memoryark-aw"]
    rolling.broken.add("r.test/aw3@sha256:0")
    with pytest.raises(HostError, match="memoryark-aw-next did not become healthy"):
        deploy(rolling.host(), release(text=proxied(), **OLD, aw="aw3"), check=False)
    assert (rolling.starts["memoryark-aw"], of_worker(rolling)) == (before, {"aw": "aw1"})


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
def test_a_proxy_that_does_not_reload_fails_the_release_and_the_old_one_serves(rolling: Machine) -> None:
    reloads = 0
    reload = rolling.systemctl_reload

    def sometimes(names: list[str], *more: Any) -> tuple[int, str, str] | None:
        nonlocal reloads
        reloads += 1
        return (1, "", "no reload") if reloads == 2 else reload(names, *more)

    rolling.systemctl_reload = sometimes  # type: ignore[assignment, method-assign]
    with pytest.raises(
        HostError, match=r"b did not take its configuration(.|\n)*Release 1 is back and healthy"
    ):
        deploy(rolling.host(), release(text=proxied(), **OLD, aw="aw2"), check=False)
    assert of_worker(rolling) == {"aw": "aw1"}
    assert served(rolling) == {"memoryark-aw"}


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
def test_more_replicas_of_a_failed_release_leave_without_a_gap(rolling: Machine) -> None:
    rolling.broken.add("r.test/c2@sha256:0")
    with pytest.raises(HostError, match="Release 1 is back"):
        deploy(
            rolling.host(),
            release(text=proxied("2 next"), more="2 next", **{**OLD, "c": "c2"}, aw="aw1"),
            check=False,
        )
    assert of_worker(rolling) == {"aw": "aw1"}
    assert served(rolling) == {"memoryark-aw"}


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
def test_a_change_of_a_rolling_service_may_be_interrupted_anywhere(rolling: Machine) -> None:
    """However far it came, the service runs, and the next run ends it without a gap."""
    new = release(text=proxied("2 next"), more="2 next", **OLD, aw="aw2")
    for step in range(10_000):
        rolling.power = step
        try:
            deploy(rolling.host(), new, check=False)
        except PowerCutError:
            rolling.power = -1
        else:
            break
        deploy(rolling.host(), new, check=False)
        assert of_worker(rolling) == {"aw": "aw2", "aw-2": "aw2"}, f"after {step} operations"
        assert served(rolling) == {"memoryark-aw", "memoryark-aw-2"}, f"after {step} operations"
        deploy(rolling.host(), release(text=proxied(), **OLD, aw="aw1"), check=False)
        assert of_worker(rolling) == {"aw": "aw1"}, f"after {step} operations"
    assert step > 50


def test_a_changed_network_is_made_anew_and_only_what_is_on_it_is_started_again(machine: Machine) -> None:
    result = deploy(machine.host(), release(subnet="10.2.0.0/24", **OLD), check=False)
    assert result["plan"]["networks"] == ["ark-net"]
    assert set(machine.starts) == {"memoryark-b"}
    assert machine.networks["ark-net"]["subnets"] == [{"subnet": "10.2.0.0/24"}]
    again = deploy(machine.host(), release(subnet="10.2.0.0/24", **OLD), check=False)
    assert again["changed"] is False


def test_a_failed_release_takes_its_network_back(machine: Machine) -> None:
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError, match="Release 1 is back"):
        deploy(machine.host(), release(subnet="10.2.0.0/24", **NEW), check=False)
    assert machine.networks["ark-net"]["subnets"] == [{"subnet": "10.1.0.0/24"}]
    assert versions(machine) == OLD


def test_networks_may_give_their_addresses_to_each_other(machine: Machine) -> None:
    deploy(machine.host(), CHANGED, check=False)
    assert (versions(machine), subnets(machine)) == (NEW, NEW_NETWORKS)
    roll_back(machine.host(), back(), check=False)
    assert (versions(machine), subnets(machine)) == (OLD, OLD_NETWORKS)


def test_a_failed_release_takes_back_the_addresses_that_it_gave_to_another_network(machine: Machine) -> None:
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError, match="Release 1 is back and healthy"):
        deploy(machine.host(), CHANGED, check=False)
    assert (versions(machine), subnets(machine)) == (OLD, OLD_NETWORKS)


def test_a_boot_that_makes_networks_may_be_interrupted_anywhere(tmp_path: Path) -> None:
    """Networks are as a trial has left them; the power goes once more while a boot makes them anew."""
    for step in range(10_000):
        machine = Machine(tmp_path / str(step))
        deploy(machine.host(), release(**OLD), check=False)

        def pull(words: list[str], it: Machine = machine) -> None:
            if words[:3] == ["systemctl", "restart", "memoryark-b.service"]:
                it.power = 0

        machine.watch = pull
        with pytest.raises(PowerCutError):
            deploy(machine.host(), CHANGED, check=False)
        machine.watch = lambda _words: None
        assert subnets(machine) == NEW_NETWORKS
        try:
            machine.cut_power(power=step)
            break
        except PowerCutError:
            machine.cut_power()
        assert (versions(machine), subnets(machine)) == (OLD, OLD_NETWORKS), f"after {step} operations"
    assert step > 5


@pytest.mark.parametrize("text", ["", '{"name": "ark-net", "driver"', "[]", "null", "\0" * 100])
def test_a_boot_makes_a_network_whose_file_is_torn(machine: Machine, text: str) -> None:
    (machine.base / NETWORKS / "ark-net.json").write_text(text)
    machine.log.clear()
    machine.cut_power()
    assert (versions(machine), subnets(machine)) == (OLD, OLD_NETWORKS)
    assert sum(command.startswith("podman network create") for command in machine.log) == 1


def test_a_boot_leaves_networks_alone_that_are_as_declared_and_asks_nobody(machine: Machine) -> None:
    machine.put_network({"name": "other-net"})
    machine.log.clear()
    machine.cut_power()
    assert machine.log == []
    assert "other-net" in machine.networks


def test_a_boot_does_not_touch_what_others_have_on_a_network_or_in_its_way(machine: Machine) -> None:
    """What can be made is made; the rest is left as it is and told."""
    for name in ("ark-net", "ark-old"):
        (machine.base / NETWORKS / f"{name}.json").unlink()
    taken = [{"subnet": "10.1.0.0/16"}]
    machine.put_network({**TEMPLATE, "name": "other-net", "network_interface": "other", "subnets": taken})
    other = machine.networks["other-net"]
    machine.cut_power()
    assert set(machine.networks) == {"ark-old", "other-net"}
    assert machine.networks["other-net"] == other
    assert versions(machine) == {"a": "a1", "c": "c1"}


def test_a_boot_leaves_a_network_with_containers_of_others(machine: Machine) -> None:
    machine.put_network({**TEMPLATE, "name": "ark-net", "subnets": [{"subnet": "10.9.0.0/24"}]})
    machine.strangers = ["guest"]
    machine.cut_power()
    with pytest.raises(HostError, match=r"network ark-net stays: .* not ours are on it: guest"):
        networks.restore(machine.host(), PRESENT_MANIFEST)
    assert subnets(machine)["ark-net"] == "10.9.0.0/24"


def test_the_program_of_a_boot_needs_nothing_but_itself(machine: Machine) -> None:
    """As the unit starts it: without what is installed for Python on the host."""
    packages = str(machine.base / networks.PACKAGES.lstrip("/"))
    manifest = machine.base / "manifest.json"
    command = [sys.executable, "-B", "-S", "-m", networks.__name__, str(manifest)]
    run = partial(subprocess.run, command, env={"PYTHONPATH": packages}, capture_output=True, text=True)
    done = run(check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    manifest.write_text("{")
    done = run(check=False)
    assert done.returncode == 1
    assert "Deploy again" in done.stderr


@pytest.mark.parametrize("how", ["missing", "changed"])
def test_a_program_that_a_boot_needs_is_put_right(machine: Machine, how: str) -> None:
    (path,) = (machine.base / networks.PACKAGES.lstrip("/")).rglob("networks.py")
    path.unlink() if how == "missing" else path.write_text("mine")
    written = deploy(machine.host(), release(**OLD), check=False)["plan"]["write"]
    assert written == [f"/{path.relative_to(machine.base)}"]
    assert machine.starts == {}
    assert path.read_text() == inspect.getsource(networks)
    assert deploy(machine.host(), release(**OLD), check=False)["changed"] is False


def test_a_release_from_before_networks_were_made_at_boot_comes_back(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    earlier = release(**OLD)
    del earlier["systemd_units"][networks.UNIT]
    deploy(machine.host(), earlier, check=False)
    assert not (tmp_path / networks.PACKAGES.lstrip("/")).exists()
    deploy(machine.host(), release(**OLD), check=False)
    assert (machine.base / networks.PACKAGES.lstrip("/")).exists()
    assert machine.starts == {f"memoryark-{name}": 1 for name in OLD}
    roll_back(machine.host(), back(), check=False)
    machine.cut_power()
    assert versions(machine) == OLD
    assert deploy(machine.host(), earlier, check=False)["changed"] is False


def test_the_firewall_opens_what_a_release_needs_before_it_starts_and_closes_the_rest_at_the_end(
    machine: Machine,
) -> None:
    """Whatever runs meanwhile, of the old release or the new, is let through."""
    at_starts = []

    def watch(words: list[str]) -> None:
        if words[:2] == ["systemctl", "restart"]:
            at_starts.append(opened(machine))

    machine.watch = watch
    plan = deploy(machine.host(), CHANGED, check=False)["plan"]
    assert plan["open"] == ["published_tcp 8443"]
    assert plan["close"] == ["published_tcp 80", "egress ark-net . tcp . 443"]
    both = {"published_tcp": ["443", "80", "8443"], "egress": ["ark-net . tcp . 443"]}
    assert at_starts == [both] * len(at_starts) != []
    assert opened(machine) == OPENED["second"]


def test_a_failed_release_closes_what_it_opened(machine: Machine) -> None:
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError, match="Release 1 is back"):
        deploy(machine.host(), CHANGED, check=False)
    assert opened(machine) == OPENED["first"]


def test_openings_go_back_with_a_rollback(machine: Machine) -> None:
    deploy(machine.host(), CHANGED, check=False)
    roll_back(machine.host(), back(), check=False)
    assert opened(machine) == OPENED["first"]
    machine.cut_power()
    assert opened(machine) == OPENED["first"]


@pytest.mark.parametrize("changed", [{}, {"published_tcp": {"443", "80", "22"}}])
def test_a_firewall_that_somebody_changed_is_put_right_and_nothing_is_restarted(
    machine: Machine, changed: dict[str, set[str]]
) -> None:
    machine.firewall = changed
    assert deploy(machine.host(), release(**OLD), check=True)["changed"] is True
    assert machine.firewall == changed
    result = deploy(machine.host(), release(**OLD), check=False)
    assert (result["changed"], result["release"], machine.starts) == (True, 1, {})
    assert opened(machine) == OPENED["first"]


def test_a_file_of_openings_that_somebody_changed_is_written_anew(machine: Machine) -> None:
    file = machine.base / "etc/memoryark/releases/1/openings.nft"
    text = file.read_text()
    file.write_text("add element inet memoryark published_tcp { 22 }\n")
    assert deploy(machine.host(), release(**OLD), check=False)["plan"]["write"] == ["openings.nft"]
    assert (file.read_text(), machine.starts) == (text, {})


def test_a_host_without_a_firewall_gets_releases_all_the_same(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.firewall = None
    assert deploy(machine.host(), release(**OLD), check=False)["plan"]["open"] == []
    assert deploy(machine.host(), release(**OLD), check=False)["changed"] is False


def test_a_release_from_before_there_was_a_firewall_leaves_it_as_it_is(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    earlier = {**release(**OLD), "openings": {}}
    deploy(machine.host(), earlier, check=False)
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError, match="Release 1 is back"):
        deploy(machine.host(), CHANGED, check=False)
    assert set(OPENED["second"]["published_tcp"]) <= set(opened(machine)["published_tcp"])
    assert deploy(machine.host(), earlier, check=False)["changed"] is False


@pytest.mark.parametrize("labels", [{}, {UNIT_LABEL: "grafana.service"}], ids=["by hand", "by its own unit"])
@pytest.mark.parametrize("how", ["deploy", "roll back"])
def test_a_stranger_on_a_network_is_noticed_before_anything_stops(
    machine: Machine, labels: dict[str, str], how: str
) -> None:
    if how == "roll back":
        deploy(machine.host(), release(subnet="10.2.0.0/24", **OLD), check=False)
    machine.starts.clear()
    machine.strangers, machine.stranger_labels = ["guest"], labels
    with pytest.raises(HostError, match="containers that are not ours are on it: guest"):
        if how == "roll back":
            roll_back(machine.host(), back(), check=False)
        else:
            deploy(machine.host(), release(subnet="10.2.0.0/24", **NEW), check=False)
    assert machine.starts == {}
    assert versions(machine) == OLD


def test_a_configuration_that_its_program_refuses_changes_nothing(machine: Machine) -> None:
    with pytest.raises(HostError, match=r"b refuses its configuration: .*syntax error"):
        deploy(machine.host(), release(text="bad", **NEW), check=False)
    assert machine.starts == {}
    assert machine.known["memoryark-b"] == {"b.conf": "one"}


def test_a_failed_release_takes_its_configuration_back(machine: Machine) -> None:
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError, match="Release 1 is back"):
        deploy(machine.host(), release(text="two", **NEW), check=False)
    assert machine.known["memoryark-b"] == {"b.conf": "one"}


@pytest.mark.parametrize("how", ["broken", "fragile"])
def test_a_release_that_fails_leaves_the_one_before(machine: Machine, how: str) -> None:
    getattr(machine, how).add("r.test/d1@sha256:0")
    with pytest.raises(HostError, match=r"memoryark-d.*\n(.*\n)*Release 1 is back and healthy"):
        deploy(machine.host(), release(**NEW), check=False)
    assert versions(machine) == OLD
    machine.cut_power()
    assert versions(machine) == OLD


def test_a_failed_release_takes_its_migration_back_and_keeps_what_it_made(machine: Machine) -> None:
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError, match=r"a.db is again as it was(.|\n)*Release 1 is back") as failure:
        deploy(machine.host(), release(**NEW), check=False)
    assert machine.tables(DATABASE) == ["a1"]
    (kept,) = migrated(machine)
    assert machine.tables(kept) == ["a1", "a2"]
    assert kept in str(failure.value)


def migrated(machine: Machine) -> list[str]:
    """Databases that were kept when earlier ones came back."""
    folder = (machine.base / DATABASE.lstrip("/")).parent
    return sorted(f"/{path.relative_to(machine.base)}" for path in folder.glob("*.migrated-*"))


def test_nobody_starts_the_new_program_before_the_database_is_copied(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What needs the service may be started anew meanwhile, and systemd starts the service with it."""
    copy = databases.copy

    def slow(path: Path, target: Path) -> None:
        machine.systemctl_start(["memoryark-a.service"])
        assert versions(machine)["a"] == "a1"
        copy(path, target)
        raise PowerCutError

    monkeypatch.setattr(databases, "copy", slow)
    with pytest.raises(PowerCutError):
        deploy(machine.host(), release(**NEW), check=False)
    machine.cut_power()
    assert (versions(machine), machine.tables(DATABASE)) == (OLD, ["a1"])


def test_a_killed_run_leaves_no_way_to_the_new_program_without_a_copy(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_path: Path, _target: Path) -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(databases, "copy", killed)
        with pytest.raises(PowerCutError):
            deploy(machine.host(), release(**NEW), check=False)
    machine.systemctl_start(["memoryark-a.service"])
    assert machine.tables(DATABASE) == ["a1"]
    # The next run makes the copy before it starts the new program.
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError, match="Release 1 is back and healthy"):
        deploy(machine.host(), release(**NEW), check=False)
    assert (versions(machine), machine.tables(DATABASE)) == (OLD, ["a1"])


def test_the_next_run_tells_what_a_boot_has_brought_back(machine: Machine) -> None:
    killed_after_migration(machine)
    machine.cut_power()
    told = deploy(machine.host(), release(**OLD), check=True)["warnings"]
    (kept,) = migrated(machine)
    assert len(told) == 1
    assert f"at a boot: {machine.base}{DATABASE} is again as it was before the release" in told[0]
    assert told[0].endswith(kept)
    assert deploy(machine.host(), release(**OLD), check=False)["warnings"] == told
    assert deploy(machine.host(), release(**OLD), check=False)["warnings"] == []


def test_a_rollback_leaves_the_copy_from_before_the_release_that_comes_back(machine: Machine) -> None:
    deploy(machine.host(), release(**NEW), check=False)
    deploy(machine.host(), release(**(NEW | {"a": "a3"})), check=False)
    roll_back(machine.host(), back(), check=False)
    assert versions(machine) == NEW
    assert machine.tables(f"{ROOT}/backups/releases/2/data/a.db") == ["a1"]
    assert machine.tables(f"{ROOT}/backups/releases/3/data/a.db") == ["a1", "a2"]


def test_a_release_that_holds_keeps_its_migration(machine: Machine) -> None:
    deploy(machine.host(), release(**NEW), check=False)
    machine.cut_power()
    assert machine.tables(DATABASE) == ["a1", "a2"]
    assert machine.tables(f"{ROOT}/backups/releases/2/data/a.db") == ["a1"]


def test_an_older_program_goes_back_only_with_its_own_database(machine: Machine) -> None:
    deploy(machine.host(), release(**NEW), check=False)
    machine.broken.add("r.test/a1@sha256:0")
    with pytest.raises(HostError, match=r"memoryark-a did not become healthy(.|\n)*Release 2 is back"):
        roll_back(machine.host(), back(), check=False)
    assert versions(machine) == NEW
    assert machine.tables(DATABASE) == ["a1", "a2"]
    assert migrated(machine) == []
    # By the runbook: the copy from before the release comes back while nothing has it open.
    machine.broken.clear()
    machine.systemctl_stop(["memoryark-a.service"])
    saved = machine.base / f"{ROOT}/backups/releases/2/data/a.db".lstrip("/")
    shutil.copy(saved, machine.base / DATABASE.lstrip("/"))
    roll_back(machine.host(), back(), check=False)
    assert versions(machine) == OLD
    assert machine.tables(DATABASE) == ["a1"]


def test_what_was_broken_before_does_not_keep_the_rest_from_coming_back(machine: Machine) -> None:
    machine.containers.pop("memoryark-b")
    machine.broken |= {"r.test/b1@sha256:0", "r.test/d1@sha256:0"}
    with pytest.raises(HostError, match="could not be put back: memoryark-b did not become healthy"):
        deploy(machine.host(), release(**(NEW | {"b": "b2"})), check=False)
    assert versions(machine) == {"a": "a1", "c": "c1"}


def test_a_full_disk_in_the_middle_is_a_failure_like_any_other(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Machine.begin

    def full(self: Machine, unit: str, text: str) -> None:
        if image(text) == "r.test/d1@sha256:0":
            raise OSError(28, "No space left on device")
        begin(self, unit, text)

    monkeypatch.setattr(Machine, "begin", full)
    with pytest.raises(HostError, match=r"No space left on device\n(.*\n)*Release 1 is back"):
        deploy(machine.host(), release(**NEW), check=False)
    assert versions(machine) == OLD


@pytest.mark.parametrize(
    "link",
    [
        "etc/containers/systemd/memoryark",
        "etc/systemd/system/memoryark.target",
        "etc/systemd/system/multi-user.target.wants/memoryark.target",
    ],
)
def test_a_link_that_a_boot_needs_is_put_right(machine: Machine, link: str) -> None:
    (machine.base / link).unlink()
    assert deploy(machine.host(), release(**OLD), check=False)["plan"]["write"] == [f"/{link}"]
    assert machine.starts == {}
    assert (machine.base / link).is_symlink()
    assert deploy(machine.host(), release(**OLD), check=False)["changed"] is False


def test_a_failed_release_names_the_log(machine: Machine) -> None:
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError, match=r"the last 30 lines of memoryark-d\.service"):
        deploy(machine.host(), release(**NEW), check=False)


@pytest.mark.parametrize(
    ("note", "said"),
    [
        (
            {"Log": [{"ExitCode": 0, "Output": ""}, {"ExitCode": 1, "Output": "no queue\n"}]},
            "exit code 1 ---\nno queue",
        ),
        ({"Log": [{"ExitCode": -1, "Output": ""}]}, "exit code -1 ---\nit said nothing"),
        ({"Log": []}, ""),
        (None, ""),
    ],
)
def test_a_failed_release_tells_what_the_health_check_said(
    machine: Machine, note: dict[str, Any] | None, said: str
) -> None:
    def check(words: list[str]) -> None:
        if words == ["systemctl", "restart", "memoryark-d.service"]:
            machine.host().write("/run/memoryark/health/memoryark-d/1-healthcheck.log", json.dumps(note))

    machine.watch = check
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError) as failure:
        deploy(machine.host(), release(**NEW), check=False)
    title = "\n--- last health check of memoryark-d, "
    assert str(failure.value).count(title) == bool(said)
    assert f"lines of memoryark-d.service{title if said else ''}{said}\n" in str(failure.value)


def test_a_first_release_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.broken.add("r.test/b1@sha256:0")
    with pytest.raises(HostError, match="no release before it"):
        deploy(machine.host(), release(**OLD), check=False)
    assert versions(machine) == {}
    machine.broken.clear()
    deploy(machine.host(), release(**OLD), check=False)
    assert versions(machine) == OLD


@pytest.mark.parametrize("fault", ["unit", "image"])
def test_what_can_be_known_before_is_known_before_anything_stops(machine: Machine, fault: str) -> None:
    params = release(**NEW, e="missing" if fault == "image" else "e1")
    if fault == "unit":
        params["quadlets"]["memoryark-e.container"] += "Memory=5\n"
    with pytest.raises(HostError, match="unsupported key" if fault == "unit" else "manifest unknown"):
        deploy(machine.host(), params, check=False)
    assert machine.starts == {}
    assert versions(machine) == OLD


def test_a_file_changed_by_hand_is_put_right_and_its_reader_started_again(machine: Machine) -> None:
    file = next((machine.base / "srv/ark/config/a").rglob("a.conf"))
    file.write_text("mine\n")
    result = deploy(machine.host(), release(**OLD), check=False)
    assert result["plan"]["write"] == ["config/a/a.conf"]
    assert result["release"] == 1
    assert file.read_text() == "image a1\n"
    assert set(machine.starts) == {"memoryark-a"}


def test_a_container_that_stopped_is_started(machine: Machine) -> None:
    machine.containers.pop("memoryark-b")
    assert deploy(machine.host(), release(**OLD), check=False)["plan"]["start"] == ["memoryark-b"]
    assert versions(machine) == OLD


def test_old_releases_are_deleted_and_those_for_a_rollback_stay(machine: Machine) -> None:
    for number in range(2, 9):
        deploy(machine.host(), release(**(OLD | {"a": f"a{number}"})), check=False)
    kept = sorted(path.name for path in (machine.base / "etc/memoryark/releases").iterdir())
    assert kept == ["4", "5", "6", "7", "8"]
    assert len(list((machine.base / "srv/ark/config/a").iterdir())) == 5
    assert sorted(name for name in machine.images if "/a" in name) == [
        f"r.test/a{number}@sha256:0" for number in kept
    ]


def copies(machine: Machine) -> list[int]:
    """The releases that have copies of the database."""
    folder = machine.base / ROOT.lstrip("/") / "backups/releases"
    return sorted(int(path.name) for path in folder.iterdir()) if folder.exists() else []


def test_copies_of_the_database_go_with_their_releases(machine: Machine) -> None:
    for number in range(2, 9):
        deploy(machine.host(), release(**(OLD | {"a": f"a{number}"})), check=False)
    assert copies(machine) == [4, 5, 6, 7, 8]


def test_copies_from_before_the_last_two_migrations_stay(machine: Machine) -> None:
    for number in range(2, 5):
        deploy(machine.host(), release(**(OLD | {"a": f"a{number}"})), check=False)
    for number in range(5, 11):
        deploy(machine.host(), release(**(OLD | {"a": "a4", "c": f"c{number}"})), check=False)
    assert copies(machine) == [3, 4]
    # A change without a migration has a copy as well; that does not take the place of these.
    for number in range(11, 17):
        deploy(machine.host(), release(str(number), **(OLD | {"a": "a4"})), check=False)
    assert copies(machine) == [3, 4, 12, 13, 14, 15, 16]


def test_copies_that_a_trial_names_stay(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _saved: Path) -> str:
        raise OSError(28, "No space left on device")

    machine.broken.add("r.test/d1@sha256:0")
    with monkeypatch.context() as patch:
        patch.setattr(databases, "restore", full)
        with pytest.raises(HostError, match="No space left"):
            deploy(machine.host(), release(**NEW), check=False)
    store = Store(machine.host(), ROOT)
    store.prune()
    assert copies(machine) == [2]
    databases.take_back(machine.base / databases.TRIAL.lstrip("/"))
    store.prune()
    assert copies(machine) == []


def killed_after_migration(machine: Machine) -> None:
    """Let the new release be killed when it has migrated the database."""

    def kill(words: list[str]) -> None:
        if words[:3] == ["systemctl", "restart", "memoryark-b.service"]:
            machine.power = 0

    machine.watch = kill
    with pytest.raises(PowerCutError):
        deploy(machine.host(), CHANGED, check=False)
    machine.watch, machine.power = lambda _words: None, -1


def test_the_copy_of_an_interrupted_release_stays_for_the_one_that_goes_on(machine: Machine) -> None:
    killed_after_migration(machine)
    deploy(machine.host(), CHANGED, check=False)
    assert (copies(machine), look(machine.host(), ROOT)["current"]) == ([2], 3)
    assert machine.tables(f"{ROOT}/backups/releases/2/data/a.db") == ["a1"]


def test_a_power_cut_right_after_a_release_that_went_on_does_not_take_its_migration_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_migration(machine)

    def cut(_trial: Path) -> None:
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(databases, "end", cut)
        with pytest.raises(PowerCutError):
            deploy(machine.host(), CHANGED, check=False)
    assert look(machine.host(), ROOT)["current"] == 3
    machine.cut_power()
    assert migrated(machine) == []


def test_back_is_what_ran_before_and_not_what_was_left(machine: Machine) -> None:
    """1 is good, 2 is healthy and bad, 3 is made while 1 runs: from 3 it goes back to 1."""
    deploy(machine.host(), release(**NEW), check=False)
    roll_back(machine.host(), back(), check=False)
    deploy(machine.host(), release(**(OLD | {"c": "c3"})), check=False)
    assert roll_back(machine.host(), back(), check=False)["to"] == 1
    # And further back there is nothing.
    with pytest.raises(HostError, match="there is no release before 1; kept are: 1, 2, 3"):
        roll_back(machine.host(), back(), check=False)


def test_what_ran_before_is_kept_however_old_it_is(machine: Machine) -> None:
    for number in range(2, 7):
        deploy(machine.host(), release(**(OLD | {"c": f"c{number}"})), check=False)
    roll_back(machine.host(), back(2), check=False)
    deploy(machine.host(), release(**NEW), check=False)
    kept = sorted(path.name for path in (machine.base / "etc/memoryark/releases").iterdir())
    assert kept == ["2", "3", "4", "5", "6", "7"]
    assert roll_back(machine.host(), back(), check=False)["to"] == 2


def test_images_that_were_fetched_for_nothing_go(machine: Machine) -> None:
    with pytest.raises(HostError, match="manifest unknown"):
        deploy(machine.host(), release(**OLD, d="d7", e="missing"), check=False)
    assert "r.test/d7@sha256:0" in machine.images
    deploy(machine.host(), release(**(OLD | {"c": "c2"})), check=False)
    assert "r.test/d7@sha256:0" not in machine.images


def test_a_file_that_somebody_has_made_no_text_is_put_right(machine: Machine) -> None:
    file = next((machine.base / "srv/ark/config/a").rglob("a.conf"))
    file.write_bytes("教會".encode("big5"))
    assert deploy(machine.host(), release(**OLD), check=False)["plan"]["write"] == ["config/a/a.conf"]
    assert file.read_text() == "image a1\n"


def test_a_project_that_was_overtaken_by_a_newer_one_changes_nothing(machine: Machine) -> None:
    deploy(machine.host(), {**release(**OLD), "version": 3}, check=False)
    with pytest.raises(HostError, match="by version 3 of this project meanwhile, and this is 2; bring it up"):
        deploy(machine.host(), release(**NEW), check=False)
    assert versions(machine) == OLD


@pytest.mark.parametrize("to", [None, 1])
def test_an_earlier_release_comes_back_whole(machine: Machine, to: int | None) -> None:
    deploy(machine.host(), CHANGED, check=False)
    would = roll_back(machine.host(), back(to), check=True)
    assert (would["changed"], would["release"], would["to"]) == (True, 2, 1)
    assert versions(machine) == NEW
    machine.log.clear()
    result = roll_back(machine.host(), back(to), check=False)
    assert (result["changed"], result["release"], result["to"]) == (True, 1, 1)
    assert versions(machine) == OLD
    assert machine.known["memoryark-b"] == {"b.conf": "one"}
    assert not [command for command in machine.log if command.startswith("podman pull")]
    machine.cut_power()
    assert versions(machine) == OLD
    assert deploy(machine.host(), release(**OLD), check=False)["changed"] is False


DAMAGES = ["", "{", "[]", '{"units": [5], "systemd": {}, "configs": {}}', "\0" * 100]


def damage(machine: Machine, number: int, text: str = "") -> str:
    """Damage what a release is written down in; return a pattern for its path."""
    file = machine.base / f"etc/memoryark/releases/{number}/release.json"
    file.write_text(text)
    return f"/etc/memoryark/releases/{number}/release.json is damaged"


@pytest.mark.parametrize("text", DAMAGES)
def test_a_damaged_release_that_is_not_the_present_one_keeps_nobody_from_anything(
    machine: Machine, text: str
) -> None:
    deploy(machine.host(), release(**NEW), check=False)
    damage(machine, 1, text)
    assert [kept["number"] for kept in look(machine.host(), ROOT)["releases"]] == [2]
    with pytest.raises(HostError, match="no release 1 that was ever healthy and is whole; kept are: 2"):
        roll_back(machine.host(), back(1), check=False)
    assert deploy(machine.host(), release(**NEW), check=False)["changed"] is False
    deploy(machine.host(), release(**OLD), check=False)
    assert sorted(path.name for path in (machine.base / "etc/memoryark/releases").iterdir()) == ["2", "3"]
    assert versions(machine) == OLD
    roll_back(machine.host(), back(), check=False)
    assert versions(machine) == NEW


@pytest.mark.parametrize("text", DAMAGES)
def test_a_damaged_present_release_is_made_anew_by_the_next_deployment(machine: Machine, text: str) -> None:
    named = damage(machine, 1, text)
    with pytest.raises(HostError, match=f"{named}.*Run site.yml"):
        look(machine.host(), ROOT)
    would = deploy(machine.host(), release(**OLD), check=True)
    assert (would["changed"], would["release"]) == (True, 1)
    result = deploy(machine.host(), release(**OLD), check=False)
    assert (result["changed"], result["release"]) == (True, 2)
    assert [warning.startswith(named) for warning in result["warnings"]] == [True]
    assert machine.starts == {}
    again = deploy(machine.host(), release(**OLD), check=False)
    assert (again["changed"], again["warnings"]) == (False, [])
    assert look(machine.host(), ROOT)["current"] == 2
    machine.cut_power()
    assert versions(machine) == OLD


def test_a_missing_file_of_the_present_release_is_damage_as_well(machine: Machine) -> None:
    (machine.base / "etc/memoryark/releases/1/release.json").unlink()
    with pytest.raises(HostError, match=r"release\.json is damaged \(it is missing\)"):
        look(machine.host(), ROOT)
    assert deploy(machine.host(), release(**NEW), check=False)["release"] == 2
    assert versions(machine) == NEW


def test_a_boot_and_a_way_back_need_not_know_what_the_present_release_is(machine: Machine) -> None:
    deploy(machine.host(), release(**NEW), check=False)
    damage(machine, 2)
    machine.cut_power()
    assert versions(machine) == NEW
    roll_back(machine.host(), back(), check=False)
    assert versions(machine) == OLD


def test_what_ran_is_started_again_when_a_release_fails_that_followed_a_damaged_one(machine: Machine) -> None:
    named = damage(machine, 1)
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError, match=rf"memoryark-d did not(.|\n)*{named}(.|\n)*started as a boot does"):
        deploy(machine.host(), release(**NEW), check=False)
    assert versions(machine) == OLD
    assert machine.tables(DATABASE) == ["a1"]
    machine.cut_power()
    assert versions(machine) == OLD


def test_a_damaged_note_of_who_made_a_release_makes_it_one_that_never_held(machine: Machine) -> None:
    deploy(machine.host(), release(**NEW), check=False)
    (machine.base / "etc/memoryark/releases/1/proven.json").write_text("{")
    assert [kept["number"] for kept in look(machine.host(), ROOT)["releases"]] == [2]


@pytest.mark.parametrize(
    ("to", "message"), [(None, "no release before 1; kept are: 1"), (7, "no release 7 that was ever healthy")]
)
def test_there_must_be_a_release_to_go_back_to(machine: Machine, to: int | None, message: str) -> None:
    with pytest.raises(HostError, match=message):
        roll_back(machine.host(), back(to), check=False)


def test_a_release_that_lost_its_image_is_not_tried(machine: Machine) -> None:
    deploy(machine.host(), release(**NEW), check=False)
    machine.images.remove("r.test/c1@sha256:0")
    with pytest.raises(HostError, match=r"lacks r\.test/c1@sha256:0"):
        roll_back(machine.host(), back(), check=False)
    assert versions(machine) == NEW


def test_a_way_back_that_fails_leaves_the_present_release(machine: Machine) -> None:
    deploy(machine.host(), release(**NEW), check=False)
    machine.broken.add("r.test/c1@sha256:0")
    with pytest.raises(HostError, match="Release 2 is back and healthy"):
        roll_back(machine.host(), back(), check=False)
    assert versions(machine) == NEW


def test_the_host_tells_what_it_keeps(machine: Machine) -> None:
    deploy(machine.host(), release(**NEW), check=False)
    found = look(machine.host(), ROOT)
    assert (found["current"], [kept["number"] for kept in found["releases"]]) == (2, [1, 2])
    assert {kept["by"] for kept in found["releases"]} == {"operator@control"}
    assert found["units"]["memoryark-a"].startswith("active")
    assert found["interrupted"] == []


@pytest.mark.parametrize("rolling", ["next"], indirect=True)
@pytest.mark.parametrize("state", ["active", "activating"])
def test_the_host_tells_of_one_that_stands_in_and_was_left_over(rolling: Machine, state: str) -> None:
    name = "memoryark-aw-next"
    assert name not in look(rolling.host(), ROOT)["units"]
    if state == "active":
        rolling.containers[name] = rolling.loaded[name]
    else:
        rolling.waiting.add(name)
    found = look(rolling.host(), ROOT)
    assert (found["units"][name].partition(" ")[0], found["interrupted"]) == (state, [name])
    result = deploy(rolling.host(), release(text=proxied(), **OLD, aw="aw1"), check=False)
    assert result["plan"]["repair"] == [name]
    assert look(rolling.host(), ROOT)["interrupted"] == []
    assert of_worker(rolling) == {"aw": "aw1"}


def test_a_virgin_host_keeps_nothing(tmp_path: Path) -> None:
    found = look(Machine(tmp_path).host(), ROOT)
    assert (found["current"], found["releases"], found["units"]) == (None, [], {})


def test_every_change_is_one_line_of_the_log_and_no_secret(machine: Machine) -> None:
    machine.broken.add("r.test/d1@sha256:0")
    with pytest.raises(HostError):
        deploy(machine.host(), release("hush-hush", **NEW), check=False)
    deploy(machine.host(), release("hush-hush", **OLD), check=False)
    deploy(machine.host(), release("hush-hush", **OLD), check=False)
    roll_back(machine.host(), back(), check=False)
    text = (machine.base / "var/log/memoryark/releases.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["action"], line["from"], bool(line["error"])) for line in lines] == [
        ("deploy", None, False),
        ("deploy", 1, True),
        ("deploy", 1, False),
        ("rollback", 3, False),
    ]
    assert lines[1]["error"].startswith("memoryark-d did not become healthy")
    assert lines[2]["changes"]["restart"] == ["memoryark-a", "memoryark-b", "memoryark-c"]
    assert "hush-hush" not in text


def logged(machine: Machine) -> list[dict[str, Any]]:
    """The lines of the audit log."""
    text = (machine.base / "var/log/memoryark/releases.log").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("step", "to"),
    [("systemctl restart memoryark-a.service", 1), ("systemctl start memoryark.target", 2)],
    ids=["before the commit", "after it"],
)
def test_a_run_that_was_cut_off_has_its_line_as_well(machine: Machine, step: str, to: int) -> None:
    """Also where the next run finds nothing to do."""

    def kill(words: list[str]) -> None:
        if " ".join(words) == step:
            machine.power = 0

    machine.watch = kill
    with pytest.raises(PowerCutError):
        deploy(machine.host(), release(**NEW), check=False)
    machine.watch, machine.power = lambda _words: None, -1
    machine.cut_power()
    assert len(logged(machine)) == 1
    again = release(**(NEW if to == 2 else OLD))
    deploy(machine.host(), again, check=True)
    assert len(logged(machine)) == 1
    assert deploy(machine.host(), again, check=False)["changed"] is False
    line = logged(machine)[-1]
    assert (line["action"], line["from"], line["to"]) == ("deploy", 1, to)
    assert line["error"] == "it was killed, or the power went, before its end"
    deploy(machine.host(), again, check=False)
    assert len(logged(machine)) == 2


@pytest.mark.parametrize(
    ("step", "to"),
    [("systemctl restart memoryark-a.service", 1), ("systemctl start memoryark.target", 2)],
    ids=["before the commit", "after it"],
)
def test_a_run_that_failed_is_logged_with_the_release_that_the_host_boots(
    machine: Machine, step: str, to: int
) -> None:
    def fail(words: list[str]) -> None:
        if " ".join(words) == step:
            machine.watch = lambda _words: None
            raise HostError("a bad day")

    machine.watch = fail
    with pytest.raises(HostError, match="a bad day"):
        deploy(machine.host(), release(**NEW), check=False)
    line = logged(machine)[-1]
    assert (line["action"], line["from"], line["to"]) == ("deploy", 1, to)
    assert "a bad day" in line["error"]


def test_a_log_that_cannot_be_written_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(machine.host()), "append", full)
    warnings = deploy(machine.host(), release(**NEW), check=False)["warnings"]
    assert warnings == [
        "/var/log/memoryark/releases.log cannot be written: [Errno 28] No space left on device"
    ]


def test_what_a_release_was_made_with_is_noted_before_it_is_the_present_one(machine: Machine) -> None:
    """Or a power cut right after would let the next run look tags up anew."""

    def kill(words: list[str]) -> None:
        if words == ["systemctl", "start", "memoryark.target"]:
            machine.power = 0

    machine.watch = kill
    tags = {"r.test/a:1": f"sha256:{0:064}"}
    with pytest.raises(PowerCutError):
        deploy(machine.host(), {**release(**NEW), "version": 3, "tags": tags}, check=False)
    machine.power = -1
    assert Store(machine.host(), ROOT).version() == 3
    assert json.loads(machine.host().read(TAGS) or "") == tags


def operations(tmp_path: Path) -> int:
    """How many commands and changes of files the second release takes."""
    machine = Machine(tmp_path)
    deploy(machine.host(), release(**OLD), check=False)
    machine.power = 10**6
    deploy(machine.host(), CHANGED, check=False)
    return 10**6 - machine.power


def weak_machine(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A host with the old release that has power for ``step`` more operations, those on databases included."""
    machine = Machine(tmp_path / str(step))
    deploy(machine.host(), release(**OLD), check=False)
    machine.power = step
    monkeypatch.setattr(databases, "_sync", lambda _path: machine.tick())
    return machine


def interrupted_machine(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A host on which the new release was interrupted after ``step`` operations, and that has power again."""
    machine = weak_machine(tmp_path, step, monkeypatch)
    with pytest.raises(PowerCutError):
        deploy(machine.host(), CHANGED, check=False)
    machine.power = -1
    return machine


@pytest.mark.parametrize("boot", [True, False], ids=["power cut", "killed"])
def test_a_release_may_be_interrupted_anywhere(
    tmp_path: Path, boot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the host runs one release, whole; the next run then comes to its end."""
    total = operations(tmp_path / "count")
    assert total > 30
    for step in range(total):
        machine = interrupted_machine(tmp_path, step, monkeypatch)
        if boot:
            machine.cut_power()
            assert versions(machine) in (OLD, NEW), f"after {step} operations"
            old = versions(machine) == OLD
            assert machine.tables(DATABASE) == (["a1"] if old else ["a1", "a2"])
            expected = OLD_NETWORKS if old else NEW_NETWORKS
            assert expected.items() <= subnets(machine).items(), f"after {step} operations"
            assert opened(machine) == OPENED["first" if old else "second"], f"after {step} operations"
        deploy(machine.host(), CHANGED, check=False)
        assert versions(machine) == NEW, f"after {step} operations"
        assert subnets(machine) == NEW_NETWORKS, f"after {step} operations"
        assert opened(machine) == OPENED["second"], f"after {step} operations"
        assert machine.known["memoryark-b"] == {"b.conf": "two"}, f"after {step} operations"
        assert deploy(machine.host(), CHANGED, check=False)["changed"] is False
        machine.cut_power()
        assert versions(machine) == NEW


def test_a_return_to_the_old_release_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes the new release back after it was interrupted gets the old one, whole."""
    total = operations(tmp_path / "count")
    for step in range(total):
        machine = interrupted_machine(tmp_path, step, monkeypatch)
        committed = look(machine.host(), ROOT)["current"] == 2
        deploy(machine.host(), release(**OLD), check=False)
        assert versions(machine) == OLD, f"after {step} operations"
        assert subnets(machine) == OLD_NETWORKS, f"after {step} operations"
        assert opened(machine) == OPENED["first"], f"after {step} operations"
        assert machine.known["memoryark-b"] == {"b.conf": "one"}, f"after {step} operations"
        # What a release that held has made of the data stands.
        expected = ["a1", "a2"] if committed else ["a1"]
        assert machine.tables(DATABASE) == expected, f"after {step} operations"
        machine.cut_power()
        assert versions(machine) == OLD


def test_a_third_release_after_an_interruption_does_not_keep_the_migration_of_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = {**OLD, "c": "c3"}
    for step in range(operations(tmp_path / "count")):
        machine = interrupted_machine(tmp_path, step, monkeypatch)
        committed = look(machine.host(), ROOT)["current"] == 2
        deploy(machine.host(), release(**third), check=False)
        assert versions(machine) == third, f"after {step} operations"
        expected = ["a1", "a2"] if committed else ["a1"]
        assert machine.tables(DATABASE) == expected, f"after {step} operations"


def test_a_database_that_cannot_come_back_does_not_keep_the_rest_away(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _saved: Path) -> str:
        raise OSError(28, "No space left on device")

    machine.broken.add("r.test/d1@sha256:0")
    monkeypatch.setattr(databases, "restore", full)
    with pytest.raises(HostError, match=r"but for the services with databases: .*No space left"):
        deploy(machine.host(), release(**NEW), check=False)
    assert versions(machine) == {"b": "b1", "c": "c1"}


def test_a_directory_in_the_way_of_a_link_is_noticed_first(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "etc/containers/systemd/memoryark").mkdir(parents=True)
    with pytest.raises(HostError, match="move it away"):
        deploy(machine.host(), release(**OLD), check=False)
    assert versions(machine) == {}


def test_a_failed_release_may_be_interrupted_while_it_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, interrupted = 0, True
    while interrupted:
        machine = weak_machine(tmp_path, step, monkeypatch)
        machine.broken.add("r.test/d1@sha256:0")
        try:
            deploy(machine.host(), CHANGED, check=False)
        except PowerCutError:
            machine.cut_power()
            assert versions(machine) == OLD, f"after {step} operations"
            assert machine.tables(DATABASE) == ["a1"], f"after {step} operations"
            assert OLD_NETWORKS.items() <= subnets(machine).items(), f"after {step} operations"
        except HostError:
            interrupted = False
        step += 1
    assert step > 30
