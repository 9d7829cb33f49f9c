"""Images from tags, archives and builds: named by content, there before anything stops, kept for a rollback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.module_utils import images as ways
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError
from ansible_collections.memoryark.ops.plugins.modules import host_check
from ansible_collections.memoryark.ops.plugins.modules.release import deploy
from ansible_collections.memoryark.ops.plugins.modules.rollback import roll_back
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import build_catalogue, load_catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.images import (
    archive_digest,
    content_hash,
    context_files,
    service_recipes,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import ProblemsError
from ansible_collections.memoryark.ops.plugins.plugin_utils.release import build_release, pin_tags
from archives import MANIFEST, blob, blob_path, described, image_files, save, write_archive
from compose_samples import DIGEST, smallest, sources
from machine import PLAIN, Machine, PowerCutError, image
from memoryark_lab.paths import REPO

ROOT = "/srv/ark"
BUILD = {"context": "./app", "dockerfile": "Containerfile", "args": {"COLOUR": "red"}}


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A catalogue's folder with one service that can be built."""
    folder = tmp_path / "stack"
    for name, text in {
        "base/Containerfile": "ARG ROOT\nFROM ${ROOT}\n",
        "app/Containerfile": "ARG BASE\nFROM ${BASE}\nCOPY run /run\n",
        "app/run": "#!/bin/sh\n",
        "app/compose.yml": "services: {}\n",
        "app/config/a.conf.j2": "a\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "app/run").chmod(0o755)
    return folder


def catalogue(stack: Path, image: Any, date: str = "", **keys: Any) -> Catalogue:
    return build_catalogue(
        sources({"app": smallest(**keys)}, images={"app": image}, stack=stack, build_date=date)
    )


def problems(stack: Path, image: Any, **keys: Any) -> list[str]:
    with pytest.raises(ProblemsError) as error:
        catalogue(stack, image, **keys)
    return [str(problem) for problem in error.value.problems]


# --- what an inventory may say


@pytest.mark.parametrize(
    "reference",
    [
        f"registry.test/a/b{DIGEST}",
        f"registry.test:5000/b:1.2{DIGEST}",
        "registry.test/a/b:1.2",
        "registry:5000/b:latest",
    ],
)
def test_references_at_registries_stay_as_they_are(stack: Path, reference: str) -> None:
    made = catalogue(stack, reference)
    assert made.services["app"].image == reference
    assert (made.images.archives, made.images.recipes) == ({}, {})
    assert ways.way(reference) == "pull"


def test_an_archive_is_named_by_its_digest(stack: Path, tmp_path: Path) -> None:
    path = tmp_path / "app.tar"
    reference = f"localhost/memoryark/app@{save(path)}"
    made = catalogue(stack, f"oci-archive:{path}")
    assert made.services["app"].image == reference
    assert made.images.archives == {reference: str(path)}
    assert ways.way(reference) == "load"
    rendered = build_release(made, stack, ROOT, {})
    assert rendered["archives"] == {reference: str(path)}
    assert f"Image={reference}\n" in rendered["quadlets"]["memoryark-app.container"]


@pytest.mark.parametrize(("mode", "prefix"), [("w:gz", ""), ("w:xz", ""), ("w", "./")])
def test_archives_may_be_compressed_and_packed_from_a_folder(tmp_path: Path, mode: str, prefix: str) -> None:
    digest, files = image_files()
    write_archive(tmp_path / "a.tar", files, mode, prefix)
    assert archive_digest(str(tmp_path / "a.tar")) == digest


def spoilt(change: Callable[[dict[str, bytes]], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        files = image_files()[1]
        change(files)
        write_archive(path, files)

    return write


def with_index(*manifests: dict[str, Any]) -> Callable[[Path], None]:
    return spoilt(lambda files: files.update({"index.json": json.dumps({"manifests": manifests}).encode()}))


def truncated(path: Path) -> None:
    save(path, "x" * 100_000)
    path.write_bytes(path.read_bytes()[:50_000])


ONE = described(b"one", MANIFEST)


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda path: None, "there is no file {path} on the control node"),
        (lambda path: path.mkdir(), "{path} cannot be read: Is a directory"),
        (lambda path: path.write_text("text"), "{path} is no tar archive, or only part of one"),
        (
            lambda path: path.write_bytes(b"\x1f\x8b\x08\x00bad"),
            "{path} is no tar archive, or only part of one",
        ),
        (truncated, "{path} is"),
        (spoilt(lambda files: files.pop("index.json")), "{path} is no OCI archive; `podman save --format"),
        (spoilt(lambda files: files.update({"index.json": b"[]"})), "{path} is no OCI archive"),
        (spoilt(lambda files: files.update({"index.json": b"\xff"})), "{path} is no OCI archive"),
        (with_index(), "{path} has 0 images; save one alone"),
        (with_index(ONE, ONE), "{path} has 2 images; save one alone"),
        (
            with_index(described(b"x", "application/vnd.oci.image.index.v1+json")),
            "save one image, of one platform",
        ),
        (with_index(ONE), "{path} is incomplete; save it again"),
        (spoilt(lambda files: files.pop(blob(b"layer"))), "{path} is incomplete; save it again"),
        (spoilt(lambda files: files.update({blob(b"layer"): b"lay"})), "{path} is incomplete; save it again"),
        (spoilt(lambda files: files.update({list(files)[-1]: b"{}"})), "{path} is incomplete; save it again"),
    ],
)
def test_one_mistake_in_an_archive_one_message(
    stack: Path, tmp_path: Path, write: Callable[[Path], None], what: str
) -> None:
    path = tmp_path / "app.tar"
    write(path)
    found = problems(stack, f"oci-archive:{path}")
    assert len(found) == 1, found
    assert found[0].startswith("inventory memoryark_images.app: ")
    assert what.format(path=path) in found[0]


@pytest.mark.parametrize(
    ("word", "keys", "what"),
    [
        ("oci-archive:app.tar", {}, "'app.tar' is not an absolute path on the control node"),
        ("oci-archive:/app.tar:name", {}, "'/app.tar:name' is not an absolute path"),
        (
            "docker-archive:/app.tar",
            {},
            "which digest its image will have; `podman save --format oci-archive` or `skopeo",
        ),
        (5, {}, "is not a text; put it in quotes"),
        (None, {}, "is not a text"),
        ("build", {}, "its Compose file has no build with a context"),
        ("build", {"build": {"dockerfile": "Containerfile"}}, "its Compose file has no build with a context"),
        ("build", {"build": {"context": "./app"}}, "app/Dockerfile to build from"),
        ("build", {"build": {"context": "./none"}}, "none/Dockerfile to build from"),
        ("built", {"build": BUILD}, "'built' has neither digest nor tag"),
        ("oci-archiv:/app.tar", {}, "has neither digest nor tag"),
    ],
)
def test_one_mistake_in_the_inventory_one_message(stack: Path, word: Any, keys: Any, what: str) -> None:
    found = problems(stack, word, **keys)
    assert len(found) == 1, found
    assert found[0].startswith("inventory memoryark_images.app: ")
    assert what in found[0]


def test_a_context_may_not_be_too_large(stack: Path) -> None:
    (stack / "app/large").write_bytes(bytes(17 * 2**20))
    assert "more than 16 MiB" in problems(stack, "build", build=BUILD)[0]


def test_without_its_base_nothing_is_built(stack: Path) -> None:
    shutil.rmtree(stack / "base")
    assert "base/Containerfile to build from" in problems(stack, "build", build=BUILD)[0]


def test_problems_of_images_come_with_all_others(stack: Path) -> None:
    found = problems(stack, "oci-archive:/none.tar", read_only=False, networks=["fronted"])
    assert [line.split(": ")[0] for line in found] == [
        "inventory memoryark_images.app",
        "stack/app/compose.yml",
        "stack/app/compose.yml",
    ]


@pytest.mark.parametrize(("build", "or_build"), [({}, False), ({"build": BUILD}, True)])
def test_a_missing_image_names_the_ways_to_one(build: dict[str, Any], or_build: bool) -> None:
    services = {"app": {name: value for name, value in smallest(**build).items() if name != "image"}}
    with pytest.raises(ProblemsError) as error:
        build_catalogue(sources(services))
    assert "set memoryark_images.app to a reference with a digest" in str(error.value)
    assert ("or to the word build" in str(error.value)) is or_build


# --- what is built


def recipes(stack: Path, date: str = "2026-11-25", **change: Any) -> list[str]:
    return [recipe.image for recipe in service_recipes(stack, "app", {**BUILD, **change}, date)]


def test_a_build_is_named_by_all_that_goes_into_it(stack: Path) -> None:
    first = recipes(stack)
    assert [name.partition(":")[0] for name in first] == [ways.DEBIAN, ways.BASE, "localhost/memoryark/app"]
    assert [ways.way(name) for name in first[2:]] == ["build"]
    assert recipes(stack) == first
    assert all(old != new for old, new in zip(first, recipes(stack, "2026-12-01"), strict=True))
    assert recipes(stack, args={"COLOUR": "blue"})[2] != first[2]
    (stack / "app/run").chmod(0o644)
    second = recipes(stack)
    assert [old == new for old, new in zip(first, second, strict=True)] == [True, True, False]
    (stack / "base/more").write_text("")
    assert [old == new for old, new in zip(second, recipes(stack), strict=True)] == [True, False, False]


def test_what_the_catalogue_reads_from_the_folder_is_in_no_image(stack: Path) -> None:
    first = recipes(stack)
    (stack / "app/compose.yml").write_text("services: {app: {}}\n")
    (stack / "app/config/a.conf.j2").write_text("b\n")
    (stack / "app/__pycache__").mkdir()
    (stack / "app/__pycache__/x.pyc").write_text("")
    assert recipes(stack) == first
    assert set(context_files(stack / "app")) == {"Containerfile", "run"}
    # Elsewhere these are files like others.
    (stack / "app/compose.yml").unlink()
    assert "config/a.conf.j2" in context_files(stack / "app")


@pytest.mark.parametrize("name", ["redis", "nginx-proxy", "prometheus"])
def test_every_build_of_the_stack_is_whole(name: str) -> None:
    """Whatever a Containerfile copies is in the context that the host gets."""
    made = load_catalogue(
        REPO / "stack",
        images={
            **dict.fromkeys(("redis", "nginx-proxy", "prometheus"), "build"),
            **dict.fromkeys(("memoryark-backend", "memoryark-frontend", "line-service"), f"r.test/x{DIGEST}"),
        },
        variables=dict.fromkeys(("MEMORYARK_DOMAIN", "LINE_DOMAIN", "LINE_CHANNEL_ID", "ROOT_ADMIN_EMAIL"), "x.test"),
        secrets={"line_channel_access_token", "line_channel_secret", "internal_api_token", "jwt_secret"}
    )  # fmt: skip
    recipe = made.images.recipes[made.services[name].image]
    lines = recipe.context["Containerfile"].content.decode().splitlines()
    copied = [line.split()[-2] for line in lines if line.startswith("COPY")]
    assert set(copied) <= set(recipe.context)
    assert list(made.images.recipes)[:2] == [made.images.recipes[recipe.base].base, recipe.base]


def test_names_do_not_run_into_contents() -> None:
    assert content_hash({}, "ab", "c") != content_hash({}, "a", "bc")


# --- on the host


def release(reference: str, **more: Any) -> dict[str, Any]:
    """Parameters of the release module for one container of this image."""
    service = {**PLAIN, "name": "app", "unit": "memoryark-app", "image": reference}
    return {
        "root": ROOT,
        "quadlets": {"memoryark-app.container": f"[Unit]\n\n[Container]\nImage={reference}\n"},
        "systemd_units": {"memoryark.target": "[Unit]\n"},
        "configs": {},
        "services": [service],
        "networks": [],
        "openings": {},
        "secrets": {},
        "archives": {},
        "builds": [],
        "tags": {},
        "by": "",
        "commit": "",
        "version": 0,
        **more,
    }


def back() -> dict[str, Any]:
    return {"root": ROOT, "to": None, "by": "", "commit": ""}


def pulled(version: int) -> dict[str, Any]:
    return release(f"r.test/app@sha256:{version}")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "host")
    deploy(made.host(), pulled(0), check=False)
    made.log.clear()
    made.starts.clear()
    return made


def loaded(machine: Machine, text: str) -> dict[str, Any]:
    """A release with an image from an archive whose copy is on the host already."""
    copy = machine.base / "root/.ansible/tmp/image-0.tar"
    copy.parent.mkdir(parents=True, exist_ok=True)
    reference = f"localhost/memoryark/app@{save(copy, text)}"
    return release(reference, archives={reference: f"/{copy.relative_to(machine.base)}"})


def built(stack: Path, date: str = "") -> dict[str, Any]:
    """A release with an image that the host builds."""
    steps = service_recipes(stack, "app", BUILD, date)
    return release(steps[-1].image, builds=[recipe.to_option() for recipe in steps])


def runs(machine: Machine) -> str:
    return image(machine.running()["memoryark-app"])


def leftovers(machine: Machine) -> list[str]:
    folders = ("var/tmp", "root/.ansible/tmp")
    return [str(path) for folder in folders for path in (machine.base / folder).glob("*")]


def test_an_archive_is_loaded_once_and_its_copy_deleted(machine: Machine) -> None:
    params = loaded(machine, "one")
    reference = params["services"][0]["image"]
    looked = deploy(machine.host(), params, check=True)
    assert (looked["plan"]["load"], looked["plan"]["pull"]) == ([reference], [])
    assert f"load {reference}\n" in looked["diff"][-1]["after"]
    assert not any(command.startswith("podman tag") for command in machine.log)
    deploy(machine.host(), params, check=False)
    assert runs(machine) == reference
    assert leftovers(machine) == []
    again = deploy(machine.host(), {**params, "archives": {}}, check=False)
    assert again["changed"] is False
    machine.cut_power()
    assert runs(machine) == reference


@pytest.mark.parametrize("named", [True, False])
def test_an_archive_with_another_image_stops_nothing(machine: Machine, named: bool) -> None:
    params = loaded(machine, "one")
    (copy,) = params["archives"].values()
    (reference,) = params["archives"]
    digest, files = image_files("two")
    if named:
        # The manifest of another image under the name of the one that was checked.
        files[blob_path(reference.partition("@")[2])] = files[blob_path(digest)]
    write_archive(machine.base / copy.lstrip("/"), files)
    with pytest.raises(HostError, match="has another image; it was changed since it was checked"):
        deploy(machine.host(), params, check=False)
    assert runs(machine) == "r.test/app@sha256:0"
    assert machine.images == {"r.test/app@sha256:0"}
    assert machine.starts == {}


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no archive was sent to the host"), (b"not tar", "cannot be unpacked")]
)
def test_a_missing_or_spoilt_copy_stops_nothing(
    machine: Machine, content: bytes | None, message: str
) -> None:
    params = loaded(machine, "one")
    (copy,) = params["archives"].values()
    path = machine.base / copy.lstrip("/")
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(HostError, match=message):
        deploy(machine.host(), params, check=False)
    assert runs(machine) == "r.test/app@sha256:0"


def test_an_image_is_built_with_what_it_stands_on(machine: Machine, stack: Path) -> None:
    params = built(stack)
    reference = params["services"][0]["image"]
    assert deploy(machine.host(), params, check=True)["plan"]["build"] == [reference]
    assert "mmdebstrap" not in machine.programs
    deploy(machine.host(), params, check=False)
    assert runs(machine) == reference
    assert machine.contexts[reference] == {
        "Containerfile": "ARG BASE\nFROM ${BASE}\nCOPY run /run\n",
        "run": "#!/bin/sh\n",
    }
    commands = [command.split(" /")[0] for command in machine.log]
    order = [
        "apt-get update",
        "apt-get install mmdebstrap",
        "podman import",
        "podman build",
        "systemctl restart",
    ]
    first = [next(i for i, command in enumerate(commands) if command.startswith(one)) for one in order]
    assert first == sorted(first)
    assert leftovers(machine) == []
    machine.log.clear()
    assert deploy(machine.host(), params, check=False)["changed"] is False
    assert not any(command.startswith(("podman build", "unshare", "apt-get")) for command in machine.log)


def test_a_changed_file_builds_only_the_last_step(machine: Machine, stack: Path) -> None:
    deploy(machine.host(), built(stack), check=False)
    machine.log.clear()
    (stack / "app/run").write_text("#!/bin/sh\nexec true\n")
    deploy(machine.host(), built(stack), check=False)
    assert sum(command.startswith("podman build") for command in machine.log) == 1
    assert not any(command.startswith(("unshare", "apt-get")) for command in machine.log)


def test_a_new_date_builds_anew_and_old_foundations_go(machine: Machine, stack: Path) -> None:
    deploy(machine.host(), built(stack), check=False)
    before = set(machine.images)
    deploy(machine.host(), built(stack, "2026-12-01"), check=False)
    foundations = {name for name in before if name.startswith((ways.DEBIAN, ways.BASE))}
    assert len(foundations) == 2
    assert not foundations & machine.images
    assert sum(name.startswith((ways.DEBIAN, ways.BASE)) for name in machine.images) == 2


def test_a_build_that_fails_stops_nothing(machine: Machine, stack: Path) -> None:
    (stack / "app/Containerfile").write_text("broken\n")
    with pytest.raises(HostError, match="Unable to locate package"):
        deploy(machine.host(), built(stack), check=False)
    assert runs(machine) == "r.test/app@sha256:0"
    assert machine.starts == {}
    assert leftovers(machine) == []


def test_nobody_builds_without_a_recipe(machine: Machine, stack: Path) -> None:
    with pytest.raises(HostError, match="nothing says how to build localhost/memoryark/app:"):
        deploy(machine.host(), {**built(stack), "builds": []}, check=False)


def test_a_rollback_fetches_nothing_whatever_the_way(machine: Machine, stack: Path) -> None:
    forms = [loaded(machine, "one"), built(stack), pulled(1)]
    for params in forms:
        deploy(machine.host(), params, check=False)
    machine.log.clear()
    for params in (forms[1], forms[0], pulled(0)):
        roll_back(machine.host(), back(), check=False)
        assert runs(machine) == params["services"][0]["image"]
    assert not any(
        command.startswith(("podman pull", "podman build", "podman tag")) for command in machine.log
    )
    machine.cut_power()
    assert runs(machine) == "r.test/app@sha256:0"


def test_a_release_that_lost_its_image_says_so(machine: Machine) -> None:
    params = loaded(machine, "one")
    deploy(machine.host(), params, check=False)
    deploy(machine.host(), pulled(1), check=False)
    machine.images = {name for name in machine.images if "localhost" not in name}
    with pytest.raises(HostError, match="lacks localhost/memoryark/app@sha256:"):
        roll_back(machine.host(), back(), check=False)


def test_images_of_old_releases_go_whatever_the_way(machine: Machine, stack: Path) -> None:
    deploy(machine.host(), loaded(machine, "one"), check=False)
    deploy(machine.host(), built(stack), check=False)
    deploy(machine.host(), loaded(machine, "two"), check=False)
    assert len(machine.images) == 8
    for version in range(1, 6):
        deploy(machine.host(), pulled(version), check=False)
    assert machine.images == {f"r.test/app@sha256:{version}" for version in range(1, 6)}


@pytest.mark.parametrize("form", ["archive", "build"])
def test_an_interrupted_fetch_is_begun_again(
    tmp_path: Path, stack: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _handle: None)
    monkeypatch.setattr(os, "sync", lambda: None)
    step, interrupted = 0, True
    while interrupted:
        machine = Machine(tmp_path / str(step))
        deploy(machine.host(), pulled(0), check=False)
        interrupted = False
        machine.power = step
        try:
            deploy(machine.host(), loaded(machine, "one") if form == "archive" else built(stack), check=False)
        except PowerCutError:
            interrupted = True
            machine.cut_power()
        machine.power = -1
        params = loaded(machine, "one") if form == "archive" else built(stack)
        deploy(machine.host(), params, check=False)
        assert runs(machine) == params["services"][0]["image"], f"after {step} operations"
        step += 1
    assert step > 15


# --- tags

TAG = "r.test/app:1.2"


def test_tags_become_digests_in_the_units(stack: Path) -> None:
    made = pin_tags(catalogue(stack, TAG), {TAG: "sha256:1"})
    rendered = build_release(made, stack, ROOT, {})
    assert "Image=r.test/app@sha256:1\n" in rendered["quadlets"]["memoryark-app.container"]
    assert rendered["services"][0]["image"] == "r.test/app@sha256:1"
    assert rendered["tags"] == {TAG: "sha256:1"}


def tagged(version: int) -> dict[str, Any]:
    return {**pulled(version), "tags": {TAG: f"sha256:{version}"}}


def test_tags_are_recorded_with_the_release_and_never_in_check_mode(machine: Machine) -> None:
    looked = deploy(machine.host(), tagged(1), check=True)
    assert looked["tags"] == {TAG: "sha256:1"}
    assert looked["diff"][-1]["after_header"] == ways.TAGS
    assert ways.recorded_tags(machine.host()) == {}
    deploy(machine.host(), tagged(1), check=False)
    assert ways.recorded_tags(machine.host()) == {TAG: "sha256:1"}
    assert deploy(machine.host(), tagged(1), check=False)["changed"] is False


def test_the_record_alone_may_change(machine: Machine) -> None:
    deploy(machine.host(), pulled(1), check=False)
    machine.starts.clear()
    assert deploy(machine.host(), tagged(1), check=True)["changed"] is True
    result = deploy(machine.host(), tagged(1), check=False)
    assert (result["changed"], machine.starts) == (True, {})
    deploy(machine.host(), pulled(1), check=False)
    assert ways.recorded_tags(machine.host()) == {}


def test_a_release_that_fails_records_nothing(machine: Machine) -> None:
    deploy(machine.host(), tagged(1), check=False)
    machine.broken.add("r.test/app@sha256:2")
    with pytest.raises(HostError, match="is back and healthy"):
        deploy(machine.host(), tagged(2), check=False)
    assert ways.recorded_tags(machine.host()) == {TAG: "sha256:1"}


def test_a_damaged_record_is_named(machine: Machine) -> None:
    machine.host().write(ways.TAGS, "{")
    with pytest.raises(HostError, match="is damaged; delete it"):
        ways.recorded_tags(machine.host())


def check(host: Host, reference: str, *, update: bool = False) -> tuple[dict[str, str], dict[str, str]]:
    params = {"images": {"app": reference}, "insecure_registries": [], "update_tags": update}
    tags, unresolved = host_check.resolve_tags(host, params)
    found = [*unresolved.items(), *host_check.image_problems(host, params, tags)]
    return tags, {where: what for where, what in found if what}


GONE = "127.0.0.1:9/app:1.2"


def test_a_recorded_tag_needs_no_registry(machine: Machine) -> None:
    machine.host().write(ways.TAGS, json.dumps({GONE: "sha256:1"}))
    machine.images.add("127.0.0.1:9/app@sha256:1")
    assert check(machine.host(), GONE) == ({GONE: "sha256:1"}, {})
    tags, found = check(machine.host(), GONE, update=True)
    assert tags == {}
    assert "cannot be reached" in found["app"]


def test_a_recorded_tag_whose_image_is_gone_is_looked_for_by_digest(machine: Machine) -> None:
    machine.host().write(ways.TAGS, json.dumps({GONE: "sha256:1"}))
    _tags, found = check(machine.host(), GONE)
    assert f"registry of {GONE}@sha256:1 cannot be reached" in found["app"]
