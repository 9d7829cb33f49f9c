"""Rules for roles: options typed, described and equal to the defaults; tasks that say which module they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from memoryark_lab.paths import REPO

ROLES = sorted(folder for folder in (REPO / "roles").iterdir() if folder.is_dir())
TYPES = {"bool", "dict", "float", "int", "list", "path", "raw", "str"}
BLOCKS = ("block", "rescue", "always")
# What a task may say besides its module: the task and block keywords of ansible-core.
KEYWORDS = {
    "action",
    "always",
    "any_errors_fatal",
    "args",
    "async",
    "become",
    "become_exe",
    "become_flags",
    "become_method",
    "become_user",
    "block",
    "changed_when",
    "check_mode",
    "collections",
    "connection",
    "debugger",
    "delay",
    "delegate_facts",
    "delegate_to",
    "diff",
    "environment",
    "failed_when",
    "ignore_errors",
    "ignore_unreachable",
    "listen",
    "local_action",
    "loop",
    "loop_control",
    "module_defaults",
    "name",
    "no_log",
    "notify",
    "poll",
    "port",
    "register",
    "remote_user",
    "rescue",
    "retries",
    "run_once",
    "tags",
    "throttle",
    "timeout",
    "until",
    "vars",
    "when",
}

Spec = Mapping[str, Any]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def specified(role: Path) -> Spec:
    options: Spec = read(role / "meta" / "argument_specs.yml")["argument_specs"]["main"].get("options", {})
    return options


def differences(spec: Spec, defaults: Spec) -> list[str]:
    """Where an argument specification and defaults/main.yml do not say the same."""
    found = [f"{name} has no specification" for name in defaults if name not in spec]
    for name, option in spec.items():
        if option.get("required"):
            found += [f"{name} is required and has a default"] if name in defaults else []
        elif name not in defaults:
            found.append(f"{name} has no default")
        elif "default" not in option or option["default"] != defaults[name]:
            found.append(f"{name} has two defaults: {option.get('default')!r} and {defaults[name]!r}")
    return found


def incomplete(spec: Spec, prefix: str = "") -> list[str]:
    """Options without a type or a description, at any depth."""
    found = []
    for name, option in spec.items():
        path = f"{prefix}{name}"
        found += [f"{path} has no type"] if option.get("type") not in TYPES else []
        found += [f"{path} has no description"] if not option.get("description") else []
        found += (
            [f"{path} has no elements"] if option.get("type") == "list" and "elements" not in option else []
        )
        found += incomplete(option.get("options", {}), f"{path}.")
    return found


def tasks(entries: Any) -> Iterator[Mapping[str, Any]]:
    for entry in entries or ():
        yield entry
        for word in BLOCKS:
            yield from tasks(entry.get(word))


def complaints(task: Mapping[str, Any]) -> list[str]:
    """What is wrong with one task."""
    name = task.get("name", "a task without a name")
    modules = [key for key in task if key not in KEYWORDS and not key.startswith("with_")]
    expected = 0 if "block" in task else 1
    found = [f"{name}: ignore_errors hides failures"] if "ignore_errors" in task else []
    found += [f"{name}: {module} is no full name" for module in modules if module.count(".") < 2]
    return found + ([f"{name}: {len(modules)} modules"] if len(modules) != expected else [])


@pytest.fixture(params=ROLES, ids=[role.name for role in ROLES])
def role(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_specification_and_defaults_are_equal(role: Path) -> None:
    assert differences(specified(role), read(role / "defaults" / "main.yml") or {}) == []


def test_options_are_typed_and_described(role: Path) -> None:
    entry = read(role / "meta" / "argument_specs.yml")["argument_specs"]["main"]
    assert entry.get("short_description") and entry.get("description")
    assert incomplete(specified(role)) == []


def test_options_begin_with_the_name_of_the_role(role: Path) -> None:
    assert [name for name in specified(role) if not name.startswith(f"{role.name}_")] == []


def test_tasks_name_their_modules_and_hide_nothing(role: Path) -> None:
    files = [file for folder in ("tasks", "handlers") for file in (role / folder).rglob("*.yml")]
    assert files, "a role without tasks"
    assert [text for file in files for task in tasks(read(file)) for text in complaints(task)] == []


# A deployment makes networks with its release, which can take them back.
FOR_USE_ALONE = {"networks"}


def test_every_role_is_used() -> None:
    plays = [play for file in (REPO / "playbooks").glob("*.yml") for play in read(file)]
    used = {
        entry["role"] if isinstance(entry, dict) else entry
        for play in plays
        for entry in play.get("roles", ())
    }
    assert {role.name for role in ROLES} - used == FOR_USE_ALONE


@pytest.mark.parametrize(
    ("spec", "defaults", "found"),
    [
        ({"a_x": {"default": 1}}, {"a_x": 1}, ""),
        ({"a_x": {"default": 1}}, {"a_x": 2}, "a_x has two defaults: 1 and 2"),
        ({"a_x": {"type": "str"}}, {"a_x": "y"}, "a_x has two defaults: None and 'y'"),
        ({"a_x": {"default": 1}}, {}, "a_x has no default"),
        ({}, {"a_x": 1}, "a_x has no specification"),
        ({"a_x": {"required": True}}, {}, ""),
        ({"a_x": {"required": True}}, {"a_x": 1}, "a_x is required and has a default"),
    ],
)
def test_differences_are_found(spec: Spec, defaults: Spec, found: str) -> None:
    assert differences(spec, defaults) == ([found] if found else [])


@pytest.mark.parametrize(
    ("option", "found"),
    [
        ({"type": "str", "description": "x"}, ""),
        ({"type": "text", "description": "x"}, "o has no type"),
        ({"type": "str"}, "o has no description"),
        ({"type": "list", "description": "x"}, "o has no elements"),
        ({"type": "dict", "description": "x", "options": {"i": {"type": "int"}}}, "o.i has no description"),
    ],
)
def test_incomplete_options_are_found(option: dict[str, Any], found: str) -> None:
    assert incomplete({"o": option}) == ([found] if found else [])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{name: t, ansible.builtin.apt: {}, when: x, notify: y}", ""),
        ("{name: t, apt: {}}", "t: apt is no full name"),
        ("{name: t, ansible.builtin.apt: {}, ignore_errors: true}", "t: ignore_errors hides failures"),
        ("{name: t}", "t: 0 modules"),
        ("{name: t, a.b.c: {}, d.e.f: {}}", "t: 2 modules"),
        ("{name: b, block: [{name: t, command: x}]}", "t: command is no full name"),
    ],
)
def test_complaints_are_found(text: str, found: str) -> None:
    every = [complaint for task in tasks([yaml.safe_load(text)]) for complaint in complaints(task)]
    assert every == ([found] if found else [])
