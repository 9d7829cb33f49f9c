"""Bad input: each case is one mistake and the one message that it must get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import build_catalogue, read_stack
from ansible_collections.memoryark.ops.plugins.plugin_utils.checks import CycleError, start_levels
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import ProblemsError
from compose_samples import DIGEST, smallest, sources


def problems(services: dict[str, Any], **settings: Any) -> list[str]:
    try:
        build_catalogue(sources(services, **settings))
    except ProblemsError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_the_smallest_service_is_accepted() -> None:
    assert problems({"app": smallest()}) == []


APP = "stack/app/compose.yml: services.app"


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"netwoks": ["front"]}, APP, "'netwoks' is not supported here. Did you mean 'networks'?"),
        ({"privileged": True}, APP, "'privileged' is not supported here."),
        ({"deploy": {"resources": {"limits": {"memory": "512X"}}}}, f"{APP}.deploy.resources.limits.memory", "'512X' is not a size; write"),
        ({"deploy": {"resources": {"limits": {"cpus": "many"}}}}, f"{APP}.deploy.resources.limits.cpus", "'many' is not a number of processors"),
        ({"deploy": {"restart_policy": {"delay": "5"}}}, f"{APP}.deploy.restart_policy.delay", "'5' is not a duration"),
        ({"deploy": {"restart_policy": {"condition": "sometimes"}}}, f"{APP}.deploy.restart_policy.condition", '"sometimes" is not none, on-failure or any'),
        ({"networks": ["fronted"]}, f"{APP}.networks", "there is no network 'fronted'. Did you mean 'front'?"),
        ({"networks": {"front": {"alias": ["x"]}}}, f"{APP}.networks.front", "'alias' is not supported here. Did you mean 'aliases'?"),
        ({"depends_on": ["apps"]}, f"{APP}.depends_on", "there is no service 'apps'. Did you mean 'app'?"),
        ({"volumes": ["photo:/p"]}, f"{APP}.volumes", "there is no volume 'photo'. Did you mean 'photos'?"),
        ({"volumes": ["/etc:/p"]}, f"{APP}.volumes", "'/etc' cannot be mounted"),
        ({"volumes": ["./app/config:/p"]}, f"{APP}.volumes", "'./app/config' cannot be mounted"),
        ({"secrets": ["key"]}, f"{APP}.secrets", "secret 'key' has no value; set memoryark_secrets.key"),
        ({"x-memoryark": {"secret_environment": {"KEY": "key"}}}, f"{APP}.secrets", "secret 'key' has no value"),
        ({"image": "registry.test/app"}, f"{APP}.image", "'registry.test/app' has neither digest nor tag"),
        ({"image": "registry.test/app@sha256:12"}, f"{APP}.image", "has neither digest nor tag"),
        ({"image": "library/app:1"}, f"{APP}.image", "has neither digest nor tag"),
        ({"image": "localhost/memoryark/app:0123456789abcdef"}, f"{APP}.image", "has neither digest nor tag"),
        ({"image": "build"}, f"{APP}.image", "'build' has neither digest nor tag"),
        ({"read_only": False}, f"{APP}.read_only", "must be true"),
        ({"cap_drop": ["CHOWN"]}, f"{APP}.cap_drop", "must be [ALL]"),
        ({"deploy": {"resources": {"reservations": {"memory": "1g"}}}}, f"{APP}.deploy.resources.reservations.memory", "is above the limit"),
        ({"deploy": {"resources": {"reservations": {"cpus": "4"}}}}, f"{APP}.deploy.resources.reservations.cpus", "is above the limit"),
        ({"environment": ["HOME"]}, f"{APP}.environment.HOME", "the value is missing"),
        ({"environment": {"X": "$NOPE"}}, f"{APP}.environment.X", "variable NOPE is not set"),
        ({"ports": ["eighty:80"]}, f"{APP}.ports[0]", '"eighty:80" is not [ADDRESS:]PUBLISHED:TARGET'),
        ({"secrets": [{"source": "x", "mode": "0400"}]}, f"{APP}.secrets[0].mode", '"0400" is not an octal file mode without quotes'),
        ({"healthcheck": {"retries": 0}}, f"{APP}.healthcheck.retries", "0 is not a number above 0"),
    ],
)  # fmt: skip
def test_one_mistake_one_message(change: dict[str, Any], where: str, what: str) -> None:
    found = problems({"app": smallest(**change)})
    assert len(found) == 1, found
    assert found[0].startswith(f"{where}: ")
    assert what in found[0]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("image", "set memoryark_images.app"),
        ("deploy.resources.limits.cpus", "the limit is missing"),
        ("deploy.resources.limits.memory", "the limit is missing"),
        ("healthcheck.test", "the health check is missing"),
        ("x-memoryark.id_range", "the range is missing"),
    ],
)
def test_what_every_service_must_say(path: str, what: str) -> None:
    raw = smallest()
    *parents, last = path.split(".")
    place: Any = raw
    for key in parents:
        place = place[key]
    del place[last]
    found = problems({"app": raw})
    assert len(found) == 1, found
    assert found[0].startswith(f"{APP}.{path}: ")
    assert what in found[0]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"ports": ["80:1"]}, "host port '80/tcp' is claimed by a and b"),
        ({"container_name": "same"}, "container name 'same' is claimed by a and b"),
        ({"networks": {"front": {"ipv4_address": "10.1.0.9"}}}, "address '10.1.0.9' is claimed by a and b"),
        (
            {"x-memoryark": {"routes": [{"host": "h.test", "path": "/", "port": 1}]}},
            "route 'h.test /' is claimed by a and b",
        ),
    ],
)
def test_what_only_one_service_may_have(change: dict[str, Any], what: str) -> None:
    second = smallest(**change)
    second["x-memoryark"]["id_range"] = 2
    found = problems({"a": smallest(**change), "b": second})
    assert len(found) == 1, found
    assert what in found[0]


@pytest.mark.parametrize("name", ["networks", "memoryark-recovery"])
def test_a_unit_of_the_project_is_no_service(name: str) -> None:
    (found,) = problems({name: smallest()})
    assert f"services.{name}: the project has a unit" in found


def test_id_ranges_are_not_shared() -> None:
    found = problems({"a": smallest(), "b": smallest()})
    assert found == [
        "stack/b/compose.yml: services.b.x-memoryark.id_range: id range '1' is claimed by a and b."
    ]


def test_a_cycle_is_named() -> None:
    names = ["a", "b", "c"]
    services = {
        name: smallest(depends_on=[names[(index + 1) % 3]], **{"x-memoryark": {"id_range": index + 1}})
        for index, name in enumerate(names)
    }
    found = problems(services)
    assert len(found) == 1, found
    assert "a → b → c → a" in found[0]


def test_all_problems_come_at_once_and_name_where_they_are_from() -> None:
    found = problems(
        {"app": smallest(networks=["nowhere"])},
        override={"services": {"app": {"deploy": {"resources": {"reservations": {"memory": "9g"}}}}}},
        images={"app": "registry.test/app"},
    )
    assert [line.split(": ")[0] for line in found] == [
        "inventory memoryark_compose",
        "inventory memoryark_images.app",
        "stack/app/compose.yml",
    ]


def test_an_image_for_no_service() -> None:
    found = problems({"app": smallest()}, images={"ap": f"registry.test/x{DIGEST}"})
    assert found == ["inventory memoryark_images.ap: there is no such service. Did you mean 'app'?"]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "compose.yml").write_text("services: [", encoding="utf-8")
    with pytest.raises(ProblemsError, match=r"app/compose\.yml: cannot be read"):
        read_stack(tmp_path)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"there is no <service>/compose\.yml"):
        read_stack(tmp_path)


@pytest.mark.parametrize("tree", [None, [], "text", {"services": []}, {"services": {"app": None}}])
def test_documents_of_a_wrong_shape(tree: Any) -> None:
    found = sources({"app": smallest()})
    found.documents.append(type(found.documents[0])("stack/odd/compose.yml", tree))
    with pytest.raises(ProblemsError, match=r"stack/odd/compose\.yml"):
        build_catalogue(found)


@pytest.mark.parametrize(
    ("dependencies", "levels"),
    [
        ({}, []),
        ({"b": [], "a": []}, [["a", "b"]]),
        ({"a": ["b"], "b": ["c"], "c": []}, [["c"], ["b"], ["a"]]),
        ({"a": ["x"]}, [["a"]]),
    ],
)
def test_start_levels(dependencies: dict[str, list[str]], levels: list[list[str]]) -> None:
    assert start_levels(dependencies) == levels


def test_a_service_that_waits_for_itself() -> None:
    with pytest.raises(CycleError, match=r"a → a"):
        start_levels({"a": ["a"]})
