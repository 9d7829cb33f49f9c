"""Breaking changes are read before a server is touched, and each only once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.memoryark.ops.plugins.plugin_utils.breaking import (
    check_acknowledged,
    load_changes,
    newest,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import ProblemsError


def entry(version: Any = 1, **texts: Any) -> dict[str, Any]:
    both = {
        "title": {"en": f"Title {version}", "zh-TW": f"標題 {version}"},
        "changed": {"en": "This is other.\nThat as well.\n", "zh-TW": "不一樣了。"},
        "do": {"en": "Rename it.", "zh-TW": "改名。"},
    }
    return {"version": version, **both, **texts}


def written(path: Path, entries: Any) -> Path:
    file = path / "changes.yml"
    file.write_text(yaml.safe_dump(entries, allow_unicode=True), encoding="utf-8")
    return file


def test_the_newest_entry_is_the_version_of_the_project(tmp_path: Path) -> None:
    assert newest(load_changes(written(tmp_path, []))) == 0
    assert newest(load_changes(written(tmp_path, [entry(1), entry(4)]))) == 4


@pytest.mark.parametrize(
    ("entries", "where", "what"),
    [
        ({}, "changes.yml", "is not a list."),
        (["x"], "changes.yml entry 1", "has to have the keys version, title, changed, do, and no others."),
        ([entry(1, extra=1)], "changes.yml entry 1", "and no others."),
        ([entry("2")], "changes.yml entry 1", "its version is '2' and has to be a whole number."),
        ([entry(True)], "changes.yml entry 1", "has to be a whole number."),
        ([entry(0)], "changes.yml version 0", "has to be above the one before it, 0."),
        ([entry(2), entry(2)], "changes.yml version 2", "has to be above the one before it, 2."),
        (
            [entry(1, title={"en": "T"})],
            "changes.yml entry 1",
            "'title' has to have a text in each of en, zh-TW",
        ),
        ([entry(1, do={"en": "T", "zh-TW": " "})], "changes.yml entry 1", "'do' has to have a text"),
        ([entry(1, changed="x")], "changes.yml entry 1", "'changed' has to have a text"),
    ],
)
def test_the_form_of_the_list(tmp_path: Path, entries: Any, where: str, what: str) -> None:
    with pytest.raises(ProblemsError) as caught:
        load_changes(written(tmp_path, entries))
    assert [problem.where for problem in caught.value.problems] == [where]
    assert what in caught.value.problems[0].what


def test_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"absent\.yml: cannot be read"):
        load_changes(tmp_path / "absent.yml")
    (tmp_path / "bad.yml").write_text("[1", encoding="utf-8")
    with pytest.raises(ProblemsError, match=r"bad\.yml: cannot be read"):
        load_changes(tmp_path / "bad.yml")


@pytest.mark.parametrize(
    ("deployed", "acknowledged", "shown"),
    [
        (None, 0, []),  # a virgin server has nothing to forget
        (3, 0, []),
        (2, 0, [3]),
        (0, 0, [1, 2, 3]),
        (0, 2, [3]),
        (0, 3, []),
        (0, "3", []),  # from the command line
        (1, "three", [2, 3]),  # which is no number was said elsewhere
    ],
)
def test_only_what_is_new_and_unread_is_shown(
    tmp_path: Path, deployed: int | None, acknowledged: Any, shown: list[int]
) -> None:
    changes = load_changes(written(tmp_path, [entry(1), entry(2), entry(3)]))
    found = check_acknowledged(changes, deployed, acknowledged)
    assert [number for number in (1, 2, 3) if f"Title {number}" in str(found)] == shown
    assert bool(found) == bool(shown)


def test_a_change_is_shown_whole_in_both_languages(tmp_path: Path) -> None:
    changes = load_changes(written(tmp_path, [entry(1)]))
    assert str(check_acknowledged(changes, 0, 0)[0]).splitlines() == [
        "inventory memoryark_acknowledged: this server was last deployed with version 0 of this project, this is "
        "version 1. Do what is said below, then set memoryark_acknowledged: 1",
        "    1. Title 1",
        "       What changed: This is other.",
        "       That as well.",
        "       What to do: Rename it.",
        "    1. 標題 1",
        "       有什麼改變：不一樣了。",
        "       要做什麼：改名。",
    ]


@pytest.mark.parametrize(
    ("deployed", "acknowledged", "where", "what"),
    [
        (0, 2, "inventory memoryark_acknowledged", "2 is above the newest version, 1; set it to 1."),
        (None, 2, "inventory memoryark_acknowledged", "2 is above the newest version, 1"),
        (
            5,
            0,
            "version of the server",
            "with version 5 of this project, and this working copy is version 1;",
        ),
        (5, 1, "version of the server", "bring it up to date with `git pull`"),
    ],
)
def test_versions_that_do_not_exist_here(
    tmp_path: Path, deployed: int | None, acknowledged: int, where: str, what: str
) -> None:
    found = check_acknowledged(load_changes(written(tmp_path, [entry(1)])), deployed, acknowledged)
    assert [problem.where for problem in found] == [where]
    assert what in found[0].what
