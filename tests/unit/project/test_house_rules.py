"""Rules that hold for every file of the project. Each checker is tried on a sample that breaks its rule."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ansible_collections.memoryark.ops.plugins.plugin_utils.breaking import load_changes
from memoryark_lab.paths import REPO

Checker = Callable[[str], list[str]]

MOST_SHELL_LINES = 20
# Folders in which programs and containers keep their things; a checkout there says nothing.
COMMON = {"/", "/app", "/data", "/home", "/opt", "/root", "/srv", "/tmp", "/usr", "/usr/local", "/var"}
_INDEX = re.compile(r"(--(?:index-url|extra-index-url|find-links|trusted-host)|https?://)\S*")
# The hosts that packages are downloaded from; links to documentation are another matter.
_REGISTRY = re.compile(
    r"(?:deb|security|snapshot|ftp\.\w+)\.debian\.org|pypi\.org/simple|files\.pythonhosted\.org|registry\.npmjs\.org"
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{16,}")
_SECRET = re.compile(
    r"""(?im)^[ \t-]*["']?[a-z_]*(?:token|secret|password|passwd|api_key)["']?\s*[:=]\s*["']?([A-Za-z0-9+/_=-]{20,})"""
)
_PLACEHOLDER = re.compile(r"(?i)\bchange[-_ ]?me\b|\byour-[a-z-]+\b|\bTODO\b|\bFIXME\b|\bXXX\b")
_SHELL = re.compile(r"#!\s*\S*/(?:env\s+)?(?:ba|da|k|z)?sh\b")


def files() -> list[Path]:
    """Every file that is, or would be, kept by git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    paths = (REPO / name for name in done.stdout.split("\0") if name)
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def texts(*suffixes: str) -> dict[str, str]:
    """The texts of files by their path in the project; all files without ``suffixes``."""
    chosen = [path for path in files() if not suffixes or path.suffix in suffixes]
    return {str(path.relative_to(REPO)): path.read_text(encoding="utf-8") for path in chosen}


def places(checkout: str, interpreter: str) -> list[str]:
    """The directories that only exist on the machine of a checkout."""
    return sorted({checkout, str(Path(checkout).parent), interpreter} - COMMON)


def paths_of(text: str, directories: list[str]) -> list[str]:
    """The directories of some machine that a text names."""
    named = [one for one in directories if re.search(rf"(?<![\w.~}}]){re.escape(one)}(?![\w.-])", text)]
    return named + re.findall(r"(?<![\w.~}])/(?:home|Users)/(?!\{|\$|<)[a-z][\w.-]*", text)


def download_addresses(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [match[0] for line in lines if (match := _INDEX.search(line))]


def registries(text: str) -> list[str]:
    return _REGISTRY.findall(text)


def secrets(text: str) -> list[str]:
    """Private keys, and values of secrets that were made rather than worded: those have digits."""
    values = [match for match in _SECRET.finditer(text) if any(letter.isdigit() for letter in match[1])]
    # Only the beginning: a message must not spread what should not be there.
    return [match[0].strip()[:30] for match in (*_PRIVATE_KEY.finditer(text), *values)]


def placeholders(text: str) -> list[str]:
    return _PLACEHOLDER.findall(text)


def long_shell(text: str) -> list[str]:
    count = len(text.splitlines())
    return [f"{count} lines of shell"] if _SHELL.match(text) and count > MOST_SHELL_LINES else []


def unreadable_yaml(text: str) -> list[str]:
    try:
        list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        return [str(error)]
    return []


def unreadable_json(text: str) -> list[str]:
    try:
        json.loads(text)
    except ValueError as error:
        return [str(error)]
    return []


def misplaced_services(folder: str, text: str) -> list[str]:
    """A folder's Compose file defines the service of the folder's name and no other."""
    return [name for name in yaml.safe_load(text).get("services", {}) if name != folder] or (
        [] if folder in yaml.safe_load(text).get("services", {}) else [f"{folder} is missing"]
    )


def breaches(found: dict[str, str], check: Checker) -> list[str]:
    return [f"{name}: {what}" for name, text in found.items() for what in check(text)]


def test_no_file_names_a_place_on_one_machine() -> None:
    here = places(str(REPO), sys.base_prefix)
    kept = {name: text for name, text in texts().items() if REPO / name != Path(__file__)}
    assert breaches(kept, lambda text: paths_of(text, here)) == []


def test_the_lock_names_no_download_address() -> None:
    assert download_addresses((REPO / "requirements.lock").read_text(encoding="utf-8")) == []


def test_no_file_names_a_package_registry() -> None:
    assert breaches(texts(), registries) == []


def test_no_secrets_are_kept() -> None:
    # Unit tests need things that look like secrets.
    kept = {name: text for name, text in texts().items() if not name.startswith("tests/")}
    assert breaches(kept, secrets) == []


def test_nothing_is_left_to_fill_in_but_the_example() -> None:
    parts = ("stack/", "roles/", "playbooks/", "inventories/")
    kept = {name: text for name, text in texts().items() if name.startswith(parts)}
    assert (
        breaches({n: t for n, t in kept.items() if not n.startswith("inventories/example/")}, placeholders)
        == []
    )


def test_shell_scripts_are_short() -> None:
    assert breaches(texts("", ".sh"), long_shell) == []


def test_yaml_and_json_can_be_read() -> None:
    assert breaches(texts(".yml", ".yaml"), unreadable_yaml) == []
    assert breaches(texts(".json"), unreadable_json) == []


def test_breaking_changes_are_in_order_and_in_both_languages() -> None:
    """Raises with all that is wrong; that it finds it is tried in tests/unit/ops/test_breaking.py."""
    versions = [change.version for change in load_changes(REPO / "docs" / "breaking-changes.yml")]
    assert versions == sorted(set(versions))


def test_every_service_has_its_own_folder() -> None:
    found = {
        path.parent.name: path.read_text(encoding="utf-8") for path in (REPO / "stack").glob("*/compose.yml")
    }
    assert [what for folder, text in found.items() for what in misplaced_services(folder, text)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cd /some/where/checkout && make", ["/some/where", "/some/where/checkout"]),
        ("see /some/where/notes", ["/some/where"]),
        ("python at /lib/python-9/bin", ["/lib/python-9"]),
        ("/home/somebody/.ssh", ["/home/somebody"]),
        ("/srv/some/where", []),
        ("/home/{{ user }}", []),
        ("/srv/memoryark", []),
    ],
)
def test_places_are_found(text: str, found: list[str]) -> None:
    assert paths_of(text, places("/some/where/checkout", "/lib/python-9")) == found


def test_common_folders_are_no_places_of_one_machine() -> None:
    assert places("/srv/checkout", "/usr") == ["/srv/checkout"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("--index-url https://index.test/simple\na==1", ["--index-url"]),
        ("a @ https://files.test/a.whl", ["https://files.test/a.whl"]),
        ("# https://allowed.test in a comment\na==1 --hash=sha256:0", []),
    ],
)
def test_download_addresses_are_found(text: str, found: list[str]) -> None:
    assert download_addresses(text) == found


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("deb http://deb." + "debian.org/debian trixie main", True),
        ("https://pypi." + "org/simple/ruff", True),
        ("https://wiki." + "debian.org/nftables and https://py" + "pi.org/project/ruff", False),
    ],
)
def test_package_registries_are_found(text: str, bad: bool) -> None:
    assert bool(registries(text)) is bad


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        (f"jwt_secret: {'a1' * 16}", True),
        (f'  "line_token" : "{"b2" * 20}"', True),
        (f"REDIS_PASSWORD={'c3' * 10}", True),
        (f"-----BEGIN PRIVATE KEY-----\n{'MIIE' * 8}", True),
        ("jwt_secret: change-me", False),
        ("internal_api_token: \"{{ lookup('env', 'TOKEN') }}\"", False),
        ("  LINE_CHANNEL_SECRET: line_channel_secret", False),
        ("-----BEGIN PRIVATE KEY-----.+-----END", False),
    ],
)
def test_secrets_are_found(text: str, bad: bool) -> None:
    assert bool(secrets(text)) is bad


@pytest.mark.parametrize(
    ("text", "bad"), [("a: CHANGEME", True), ("b: your-token", True), ("c: yours", False)]
)
def test_placeholders_are_found(text: str, bad: bool) -> None:
    assert bool(placeholders(text)) is bad


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("#!/bin/sh\n" + ":\n" * 20, True),
        ("#!/usr/bin/env bash\n" + ":\n" * 20, True),
        ("#!/bin/sh\n" + ":\n" * 19, False),
        ("#!/usr/bin/python3\n" + "pass\n" * 99, False),
    ],
)
def test_long_shell_is_found(text: str, bad: bool) -> None:
    assert bool(long_shell(text)) is bad


@pytest.mark.parametrize(("text", "bad"), [("a: [1", True), ("a: 1\n---\nb: 2\n", False)])
def test_unreadable_yaml_is_found(text: str, bad: bool) -> None:
    assert bool(unreadable_yaml(text)) is bad


@pytest.mark.parametrize(("text", "bad"), [("{'a': 1}", True), ('{"a": 1}', False)])
def test_unreadable_json_is_found(text: str, bad: bool) -> None:
    assert bool(unreadable_json(text)) is bad


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("services: {redis: {}}", []),
        ("services: {redis: {}, other: {}}", ["other"]),
        ("services: {}", ["redis is missing"]),
    ],
)
def test_misplaced_services_are_found(text: str, found: list[str]) -> None:
    assert misplaced_services("redis", text) == found
