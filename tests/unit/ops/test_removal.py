"""What goes is the project's, all of it; what stays is data and what others made."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.memoryark.ops.plugins.module_utils import databases, nftables, uninstall
from ansible_collections.memoryark.ops.plugins.module_utils.host import OWNED_LABEL, UNIT_LABEL, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.store import OWN_UNITS
from ansible_collections.memoryark.ops.plugins.modules.release import deploy
from ansible_collections.memoryark.ops.plugins.modules.uninstall import take_away
from ansible_collections.memoryark.ops.plugins.plugin_utils.release import ROOT_DIRECTORIES
from machine import Machine, PowerCutError
from memoryark_lab.paths import REPO
from role_files import written
from test_transaction import DATABASE, NEW, OLD, ROOT, release, versions

NAME = "ark1"
PHOTO = f"{ROOT}/uploads/photo.jpg"
FOREIGN_FILES = (
    "/etc/containers/registries.conf.d/other.conf",
    "/etc/containers/systemd/other.container",
    "/etc/sysctl.d/60-other.conf",
    "/etc/systemd/system/memoryark.service.d/mine.conf",
    "/etc/systemd/system/other.service",
    "/run/systemd/system/other.service",
    "/var/log/other.log",
)


def params(confirm: str = NAME, delete_data: str = "") -> dict[str, Any]:
    return {
        "root": ROOT,
        "host": NAME,
        "confirm": confirm,
        "delete_data": delete_data,
        "by": "operator@control",
        "commit": "",
    }


def mounting(**images: str) -> dict[str, Any]:
    """A release whose last service has a volume and a directory of its own."""
    made = release(**images)
    made["quadlets"]["memoryark-b.container"] += f"Volume=ark-jobs:/jobs\nVolume={ROOT}/notes:/notes:ro\n"
    return made


def put(machine: Machine, path: str, text: str = "x") -> None:
    file = machine.base / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def files(machine: Machine) -> set[str]:
    """The paths of all files and links."""
    found = (path for path in machine.base.rglob("*") if path.is_symlink() or not path.is_dir())
    return {f"/{path.relative_to(machine.base)}" for path in found}


def state(machine: Machine) -> dict[str, Any]:
    """Everything that can be compared before and after."""
    return {
        "files": files(machine),
        "containers": set(machine.containers),
        "networks": set(machine.networks),
        "volumes": set(machine.volumes),
        "secrets": dict(machine.secrets),
        "images": set(machine.images),
    }


def virgin(base: Path) -> Machine:
    """A host on which others have things of their own, in the same places."""
    machine = Machine(base)
    for path in FOREIGN_FILES:
        put(machine, path)
    for link, target in (("other.target", "/etc/other.target"), ("masked.timer", "/dev/null")):
        (machine.base / "etc/systemd/system" / link).symlink_to(target)
    machine.put_network({"name": "other-net"})
    machine.volumes["other-volume"] = {}
    machine.secrets["other"] = "theirs"
    machine.images.add("r.test/other@sha256:0")
    machine.foreign = [
        {
            "Labels": None,
            "Names": ["other"],
            "ImageID": "id of r.test/other@sha256:0",
            "Networks": ["other-net"],
        }
    ]
    return machine


def roles(machine: Machine) -> None:
    """What the roles do before a release."""
    for path in uninstall.FILES:
        put(machine, path)
    for path in uninstall.MASKS:
        (machine.base / path.lstrip("/")).symlink_to("/dev/null")
    machine.volumes["ark-jobs"] = {OWNED_LABEL: "true"}
    put(machine, PHOTO, "photo")
    put(machine, f"{ROOT}/notes/a", "note")
    put(machine, "/volumes/ark-jobs/dump", "12345")


def deployed(base: Path) -> Machine:
    machine = virgin(base)
    roles(machine)
    deploy(machine.host(), mounting(**OLD), check=False)
    deploy(machine.host(), mounting(**NEW), check=False)
    return machine


def clone(machine: Machine, base: Path) -> Machine:
    """The same host once more."""
    shutil.copytree(machine.base, base, symlinks=True)
    made = Machine(base)
    for name in (
        "loaded",
        "containers",
        "images",
        "secrets",
        "starts",
        "known",
        "left",
        "foreign",
        "volumes",
    ):
        setattr(made, name, copy.deepcopy(getattr(machine, name)))
    return made


@pytest.fixture(autouse=True)
def _disk_without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _handle: None)
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return deployed(tmp_path)


def data_of(machine: Machine) -> set[str]:
    kept = tuple(f"{ROOT}/{name}" for name in (*uninstall.DATA, "notes"))
    return {path for path in files(machine) if path.startswith((*kept, "/volumes/", "/var/log/memoryark"))}


def test_the_host_is_as_before_but_for_the_data(tmp_path: Path) -> None:
    before = state(virgin(tmp_path / "virgin"))
    machine = deployed(tmp_path / "deployed")
    data = data_of(machine)
    assert {PHOTO, DATABASE, f"{ROOT}/version", f"{ROOT}/notes/a"} <= data
    result = take_away(machine.host(), params(), check=False)
    after = state(machine)
    assert after["files"] - before["files"] == data
    assert before["files"] - after["files"] == set()
    assert after["volumes"] - before["volumes"] == {"ark-jobs"}
    for kind in ("containers", "networks", "secrets", "images"):
        assert after[kind] == before[kind], kind
    assert set(machine.loaded) == {"other"}
    assert result["release"] is None
    kept = {entry["name"]: (entry["path"], entry["bytes"]) for entry in result["kept"]}
    assert kept[f"{ROOT}/uploads"] == (f"{ROOT}/uploads", 5)
    assert kept["volume ark-jobs"] == ("/volumes/ark-jobs", 5)
    assert set(kept) == {
        *(f"{ROOT}/{name}" for name in ("backups", "data", "notes", "uploads", "version")),
        "volume ark-jobs",
    }


def test_a_second_run_changes_nothing(machine: Machine) -> None:
    assert take_away(machine.host(), params(), check=False)["changed"] is True
    again = take_away(machine.host(), params(), check=False)
    assert (again["changed"], again["diff"][0]["before"]) == (False, again["diff"][0]["after"])
    lines = (machine.base / "var/log/memoryark/releases.log").read_text().splitlines()
    last = json.loads(lines[-1])
    assert [json.loads(line)["action"] for line in lines] == ["deploy", "deploy", "uninstall"]
    assert (last["from"], last["to"], last["by"], last["error"]) == (2, None, "operator@control", "")


def test_a_damaged_release_goes_as_well(machine: Machine) -> None:
    for path in (machine.base / "etc/memoryark/releases").glob("*/release.json"):
        path.write_text("")
    take_away(machine.host(), params(), check=False)
    assert (versions(machine), set(machine.networks)) == ({}, {"other-net"})
    assert not [path for path in files(machine) if path.startswith("/etc/memoryark")]


def test_a_virgin_host_has_nothing_to_remove(tmp_path: Path) -> None:
    machine = virgin(tmp_path)
    before = state(machine)
    assert take_away(machine.host(), params(delete_data=NAME), check=False)["changed"] is False
    assert state(machine) == before


@pytest.mark.parametrize("confirm", ["", NAME])
def test_check_mode_lists_what_would_go_and_writes_nothing(tmp_path: Path, confirm: str) -> None:
    machine = deployed(tmp_path / "one")
    before = state(machine)
    would = take_away(machine.host(), params(confirm, NAME), check=True)
    assert state(machine) == before
    did = take_away(machine.host(), params(delete_data=NAME), check=False)
    assert would["plan"] == did["plan"]
    shown = would["diff"][0]["before"].splitlines()
    for line in (
        "units: memoryark-a",
        "links: /etc/systemd/system/multi-user.target.wants/memoryark.target",
        "networks: ark-net",
        "images: r.test/a1@sha256:0",
        "volumes: ark-jobs",
        "files: /etc/sysctl.d/60-memoryark.conf",
        f"directories: {ROOT}/uploads",
        "directories: /etc/memoryark",
    ):
        assert line in shown
    assert would["diff"][0]["after"] == ""


@pytest.mark.parametrize(
    ("confirm", "delete_data", "says"),
    [
        ("", "", "confirm with -e confirm=ark1"),
        ("ark2", "", "confirm is 'ark2' and has to be 'ark1'"),
        (NAME, "true", "memoryark_delete_data is 'true' and has to be 'ark1'"),
        ("", "ark2", "memoryark_delete_data is 'ark2'"),
    ],
)
def test_it_begins_only_with_the_name_of_the_host(
    machine: Machine, confirm: str, delete_data: str, says: str
) -> None:
    before = state(machine)
    machine.log.clear()
    with pytest.raises(HostError, match=says):
        take_away(machine.host(), params(confirm, delete_data), check=False)
    assert (state(machine), machine.log) == (before, [])


def test_a_wrong_name_is_wrong_in_check_mode_as_well(machine: Machine) -> None:
    with pytest.raises(HostError, match="confirm is 'ark2'"):
        take_away(machine.host(), params("ark2"), check=True)


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "later"])
def test_data_goes_when_that_is_confirmed(tmp_path: Path, at_once: bool) -> None:
    before = state(virgin(tmp_path / "virgin"))
    machine = deployed(tmp_path / "deployed")
    if not at_once:
        take_away(machine.host(), params(), check=False)
    result = take_away(machine.host(), params(delete_data=NAME), check=False)
    after = state(machine)
    # Whose the directory is, only a release could tell.
    notes = set() if at_once else {f"{ROOT}/notes/a"}
    logged = {"/var/log/memoryark/releases.log", "/volumes/ark-jobs/dump"}
    assert after["files"] - before["files"] == logged | notes
    assert after["volumes"] == before["volumes"]
    assert (result["kept"], result["left"]) == ([], sorted(f"{ROOT}/notes" for _ in notes))
    assert (machine.base / ROOT.lstrip("/")).exists() is not at_once
    assert take_away(machine.host(), params(delete_data=NAME), check=False)["changed"] is False


def test_what_others_put_below_the_root_stays_and_is_named(machine: Machine) -> None:
    put(machine, f"{ROOT}/theirs/file")
    result = take_away(machine.host(), params(delete_data=NAME), check=False)
    assert result["left"] == [f"{ROOT}/theirs"]
    assert {path for path in files(machine) if path.startswith(ROOT)} == {f"{ROOT}/theirs/file"}


def test_a_root_that_is_none_of_ours_is_not_touched(machine: Machine) -> None:
    """Whoever sets another root by mistake loses nothing there."""
    for name in ("config", "data", "uploads"):
        put(machine, f"/srv/{name}/file")
    result = take_away(machine.host(), {**params(delete_data=NAME), "root": "/srv"}, check=False)
    assert result["left"] == ["/srv/ark", "/srv/config", "/srv/data", "/srv/uploads"]
    assert {"/srv/config/file", "/srv/data/file", PHOTO} <= files(machine)


def test_a_first_deployment_that_failed_leaves_nothing(tmp_path: Path) -> None:
    """Its containers have their configuration from elsewhere, and no version was noted yet."""
    machine = virgin(tmp_path)
    before = state(machine)
    wanted = release(b="b1")
    wanted["quadlets"]["memoryark-b.container"] = (
        wanted["quadlets"]["memoryark-b.container"].partition("ExecStartPre")[0]
        + f"Volume={ROOT}/uploads:/uploads\nVolume=/run/memoryark/config/b:/etc/b:ro\n"
    )
    machine.broken.add("r.test/b1@sha256:0")
    with pytest.raises(HostError, match="There was no release before it"):
        deploy(machine.host(), wanted, check=False)
    for name in ("tls/current/key.pem", "uploads/a.jpg"):
        put(machine, f"{ROOT}/{name}")
    result = take_away(machine.host(), params(delete_data=NAME), check=False)
    assert result["left"] == []
    assert state(machine)["files"] - before["files"] == {"/var/log/memoryark/releases.log"}


def test_an_image_that_somebody_else_uses_stays_and_is_named(machine: Machine) -> None:
    machine.foreign.append({"Labels": {}, "Names": ["guest"], "ImageID": "id of r.test/a2@sha256:0"})
    result = take_away(machine.host(), params(), check=False)
    assert result["left"] == ["image r.test/a2@sha256:0, used by guest"]
    assert machine.images == {"r.test/a2@sha256:0", "r.test/other@sha256:0"}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("guest", "says"),
    [
        ({"Networks": ["ark-net"]}, "on network ark-net: guest"),
        ({"Volumes": ["ark-jobs"]}, "use volume ark-jobs: guest"),
    ],
)
def test_who_uses_what_must_go_is_noticed_first(
    machine: Machine, guest: dict[str, Any], says: str, check: bool
) -> None:
    machine.foreign.append({"Labels": {}, "Names": ["guest"], "ImageID": "", **guest})
    before = state(machine)
    with pytest.raises(HostError, match=says):
        take_away(machine.host(), params(delete_data=NAME), check=check)
    assert state(machine) == before


def test_a_deployment_that_never_came_to_a_release_leaves_nothing_either(tmp_path: Path) -> None:
    """Networks and volumes are made before anything is kept that could name them."""
    before = state(virgin(tmp_path / "virgin"))
    machine = virgin(tmp_path / "failed")
    roles(machine)
    command = ["podman", "network", "create", "--interface-name=a", "--subnet=10.1.0.0/24"]
    machine([*command, f"--label={OWNED_LABEL}=true", "ark-net"])
    take_away(machine.host(), params(delete_data=NAME), check=False)
    after = state(machine)
    assert (after["networks"], after["volumes"]) == (before["networks"], before["volumes"])


def test_a_mask_that_is_something_else_now_stays(machine: Machine) -> None:
    mask = machine.base / uninstall.MASKS[0].lstrip("/")
    mask.unlink()
    mask.write_text("[Unit]\n")
    take_away(machine.host(), params(), check=False)
    assert mask.read_text() == "[Unit]\n"


def test_what_a_release_migrated_that_did_not_hold_is_taken_back_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the release stopped: the database that stays is that of the release that was healthy."""
    first = virgin(tmp_path / "first")
    roles(first)
    deploy(first.host(), mounting(**OLD), check=False)
    step, interrupted = 0, True
    while interrupted:
        machine = clone(first, tmp_path / str(step))
        machine.power = step
        monkeypatch.setattr(databases, "_sync", lambda _path, it=machine: it.tick())
        try:
            deploy(machine.host(), mounting(**NEW), check=False)
            interrupted = False
        except PowerCutError:
            pass
        machine.power = -1
        committed = str((machine.base / "etc/memoryark/current").readlink()) == "releases/2"
        take_away(machine.host(), params(), check=False)
        expected = ["a1", "a2"] if committed else ["a1"]
        assert machine.tables(DATABASE) == expected, f"after {step} operations"
        gone = ("/run/systemd/system/memoryark", "/etc/memoryark", "/var/lib/memoryark")
        assert not [path for path in files(machine) if path.startswith(gone)], f"after {step} operations"
        step += 1
    assert step > 30


@pytest.mark.parametrize("boot", [True, False], ids=["power cut", "killed"])
@pytest.mark.parametrize("delete_data", ["", NAME], ids=["data stays", "data goes"])
def test_it_may_be_interrupted_anywhere(tmp_path: Path, delete_data: str, boot: bool) -> None:
    before = deployed(tmp_path / "before")
    whole = clone(before, tmp_path / "whole")
    take_away(whole.host(), params(delete_data=delete_data), check=False)
    step, interrupted = 0, True
    while interrupted:
        machine = clone(before, tmp_path / str(step))
        machine.power = step
        try:
            take_away(machine.host(), params(delete_data=delete_data), check=False)
            interrupted = False
        except PowerCutError:
            machine.power = -1
            if boot:
                machine.cut_power()
                put(machine, "/run/systemd/system/other.service")
            take_away(machine.host(), params(delete_data=delete_data), check=False)
        machine.power = -1
        assert state(machine) == state(whole), f"after {step} operations"
        assert take_away(machine.host(), params(delete_data=delete_data), check=False)["changed"] is False
        step += 1
    assert step > 30


def test_a_deployment_after_it_goes_on_with_the_data(machine: Machine) -> None:
    # The copies that earlier releases made of the database are not overwritten: numbers go on.
    saved = machine.base / f"{ROOT.lstrip('/')}/backups/releases/2/data/a.db"
    before = saved.read_bytes()
    take_away(machine.host(), params(), check=False)
    result = deploy(machine.host(), mounting(**{**NEW, "a": "a3"}), check=False)
    assert result["release"] == 3
    assert versions(machine) == {**NEW, "a": "a3"}
    assert machine.tables(DATABASE) == ["a1", "a2", "a3"]
    assert saved.read_bytes() == before
    assert machine.tables(f"{ROOT}/backups/releases/3/data/a.db") == ["a1", "a2"]
    assert (machine.base / PHOTO.lstrip("/")).read_text() == "photo"
    assert deploy(machine.host(), mounting(**{**NEW, "a": "a3"}), check=False)["changed"] is False


def test_everything_is_done_in_its_order(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What systemd is told, and which of the project's files are still there at that moment."""
    seen: list[tuple[str, set[str]]] = []

    def watch(words: list[str]) -> None:
        if words[0] == "systemctl" and words[1] != "show":
            there = files(machine)
            ours = (path for path in there if path.startswith(uninstall.BOOT) and "memoryark" in path)
            links = {path for path in ours if (machine.base / path[1:]).is_symlink()} - set(uninstall.MASKS)
            left = {"links": links, "files": there & set(uninstall.FILES)}
            seen.append((" ".join(words[1:]), {kind for kind, paths in left.items() if paths}))

    machine.watch = watch
    monkeypatch.setattr(os, "sync", lambda: seen.append(("sync", files(machine) & set(uninstall.FILES))))
    names = [f"memoryark-{name}.service" for name in NEW]
    every = [f"memoryark-{name}.service" for name in sorted({*OLD, *NEW})]
    timed = "memoryark-certificates.service memoryark-certificates.timer"
    firewall = (*nftables.UNITS, nftables.TIMER)
    own = " ".join(sorted((*timed.split(), *firewall, "memoryark-networks.service", "memoryark.target")))
    take_away(machine.host(), params(), check=False)
    assert seen == [
        (f"stop {own}", {"links", "files"}),
        (f"stop {' '.join(names)}", {"links", "files"}),
        ("daemon-reload", {"files"}),
        (f"reset-failed {' '.join([*every, *OWN_UNITS])}", {"files"}),
        ("daemon-reload", set()),
        ("try-restart systemd-journald.service systemd-timesyncd.service", set()),
        ("sync", set()),
    ]


def test_the_firewall_goes_and_those_of_others_stay(machine: Machine) -> None:
    take_away(machine.host(), params(), check=True)
    assert machine.firewall is not None
    machine.log.clear()
    take_away(machine.host(), params(), check=False)
    assert machine.firewall is None
    assert [command for command in machine.log if command.startswith("nft")] == [
        "nft list tables",
        f"nft list table {nftables.TABLE}",
        "nft -",
    ]


def test_containers_that_outlived_their_units_go_as_well(machine: Machine) -> None:
    """As after a power cut: a container is there, and nothing runs it."""
    machine.left["memoryark-z"] = machine.containers["memoryark-a"]
    take_away(machine.host(), params(), check=False)
    assert machine.left == {}


def test_a_unit_of_a_damaged_release_that_tries_to_start_is_stopped(machine: Machine) -> None:
    put(machine, "/run/systemd/system/memoryark-z.service", "[Unit]\nImage=r.test/z@sha256:0")
    machine.daemon_reload()
    machine.waiting.add("memoryark-z")
    take_away(machine.host(), params(), check=False)
    assert machine.waiting == set()


def test_units_of_others_that_run_containers_are_left_alone(machine: Machine) -> None:
    machine.foreign.append({"Labels": {UNIT_LABEL: "other.service"}, "Names": ["guest"], "ImageID": ""})
    assert "other" not in take_away(machine.host(), params(), check=True)["plan"]["units"]


def test_what_built_images_stood_on_goes_with_them(machine: Machine) -> None:
    machine.images |= {"localhost/memoryark-debian:1", "localhost/memoryark-base:1", "localhost/other:1"}
    take_away(machine.host(), params(), check=False)
    assert machine.images == {"r.test/other@sha256:0", "localhost/other:1"}


def test_networks_and_volumes_from_before_there_were_labels_go_by_the_names_in_releases(
    machine: Machine,
) -> None:
    machine.put_network({**machine.networks["ark-net"], "labels": None})
    machine.volumes["ark-jobs"] = {}
    take_away(machine.host(), params(delete_data=NAME), check=False)
    assert (set(machine.networks), set(machine.volumes)) == ({"other-net"}, {"other-volume"})


def test_a_guest_may_stay_on_a_volume_that_stays(machine: Machine) -> None:
    machine.foreign.append({"Labels": {}, "Names": ["guest"], "ImageID": "", "Volumes": ["ark-jobs"]})
    assert take_away(machine.host(), params(), check=False)["changed"] is True
    assert "ark-jobs" in machine.volumes


def test_a_root_without_the_note_of_its_version_is_known_by_its_releases(machine: Machine) -> None:
    (machine.base / f"{ROOT}/version".lstrip("/")).unlink()
    take_away(machine.host(), params(), check=False)
    assert not (machine.base / f"{ROOT}/config".lstrip("/")).exists()
    assert PHOTO in files(machine)


@pytest.mark.parametrize("kind", ["link", "mount"])
def test_a_root_that_is_a_file_system_of_its_own_stays_empty(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    root = machine.base / ROOT.lstrip("/")
    if kind == "link":
        disk = root.rename(machine.base / "disk")
        root.symlink_to(disk)
    else:
        monkeypatch.setattr(Path, "is_mount", lambda path: path == root)
    result = take_away(machine.host(), params(delete_data=NAME), check=False)
    assert ROOT not in result["plan"]["directories"]
    assert list(root.iterdir()) == []


def test_a_directory_that_cannot_be_deleted_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = machine.host()
    monkeypatch.setattr(type(host), "delete_tree", lambda _self, _name: None)
    with pytest.raises(HostError, match=f"{ROOT}/config cannot be deleted"):
        take_away(host, params(), check=False)


def test_every_file_that_a_role_writes_is_known_here() -> None:
    """Whoever lets a role write another file decides here whether it goes."""
    stays = {"/etc/localtime"}
    tasks = [
        task
        for path in sorted((REPO / "roles").glob("*/tasks/*.yml"))
        for task in yaml.safe_load(path.read_text(encoding="utf-8"))
    ]
    paths = written(tasks) | {
        task[module]["dest"]
        for task in tasks
        for module in ("ansible.builtin.copy", "ansible.builtin.template")
        if module in task
    }
    below = {path for path in paths if path.startswith(tuple(f"{tree}/" for tree in uninstall.TREES))}
    assert paths - below == {*uninstall.FILES, *uninstall.MASKS, *stays}


def test_every_directory_below_the_root_is_known_here() -> None:
    assert {*ROOT_DIRECTORIES, "version", "tls", "acme-challenge"} == {*uninstall.DATA, *uninstall.MADE}
