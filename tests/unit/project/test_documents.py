"""The documentation names only what exists, and its two languages show the same commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.settings import SETTINGS
from memoryark_lab import cli
from memoryark_lab.paths import REPO

DOCUMENTS = sorted([*REPO.glob("*.md"), *(REPO / "docs").rglob("*.md"), REPO / "lab" / "README.md"])
RUNBOOKS = REPO / "docs" / "runbooks"
PAIRS = [
    (REPO / "README.zh-TW.md", REPO / "README.md"),
    (REPO / "docs/first-server.zh-TW.md", REPO / "docs/first-server.md"),
    *(
        (path, path.with_suffix(".en.md"))
        for path in sorted(RUNBOOKS.glob("*.md"))
        if not path.match("*.en.md")
    ),
]
# What playbooks hand around, and names of other things that begin in the same way.
NO_SETTINGS = {
    "memoryark_release",
    "memoryark_delete_data",
    "memoryark_lab",
    "memoryark_backend",
    "memoryark_agent",
}
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)")
_CODE = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors that a Markdown page's headings make."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def dead_links(path: Path, text: str) -> list[str]:
    found = []
    for target, anchor in _LINK.findall(text):
        page = (path.parent / target).resolve() if target else path
        if target and not page.exists():
            found.append(target)
        elif anchor and anchor not in anchors(page.read_text(encoding="utf-8") if target else text):
            found.append(f"{target}#{anchor}")
    return found


def unknown(text: str, pattern: str, known: set[str]) -> list[str]:
    return sorted(set(re.findall(pattern, text)) - known)


def unknown_make_targets(text: str) -> list[str]:
    targets = re.findall(
        r"^([a-z][a-z0-9-]*):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    return unknown(text, r"(?:^|`)make ([a-z][a-z0-9-]*)", set(targets))


def unknown_lab_commands(text: str) -> list[str]:
    actions = cli.parser()._subparsers
    assert actions is not None
    known = {name for action in actions._group_actions for name in action.choices or ()}
    return unknown(text, r"(?:^\.venv/bin/|`\.venv/bin/|`)lab ([a-z][a-z-]+)", known)


def unknown_settings(text: str) -> list[str]:
    return unknown(text, r"\b(memoryark_[a-z_]+)\b", {*SETTINGS, *NO_SETTINGS})


def missing_files(text: str) -> list[str]:
    """Paths of the project that are named and not there."""
    named = re.findall(
        r"(?<![\w/.-])((?:docs|inventories|lab|molecule|playbooks|roles|stack|tests)/[\w./-]*)", text
    )
    return sorted({name for name in named if not (REPO / name).exists() and "production" not in name})


def commands(text: str) -> list[str]:
    """The lines of all shell blocks, without what is only said about them."""
    lines = [
        line.partition("  #")[0].rstrip() for block in _CODE.findall(text) for line in block.splitlines()
    ]
    return [line for line in lines if line]


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(REPO)) for path in DOCUMENTS])
def test_it_names_only_what_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert dead_links(path, text) == []
    assert unknown_make_targets(text) == []
    assert unknown_lab_commands(text) == []
    assert unknown_settings(text) == []
    assert missing_files(text) == []


@pytest.mark.parametrize(("chinese", "english"), PAIRS, ids=[path.name for path, _english in PAIRS])
def test_both_languages_show_the_same(chinese: Path, english: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (chinese, english)]
    first, second = (commands(text) for text in texts)
    assert first == second
    # As many sections, in the same order of depth; as many rows of tables.
    shapes = [re.findall(r"^(#+ |\|)", text, re.MULTILINE) for text in texts]
    assert shapes[0] == shapes[1]


def test_the_readme_lists_every_make_target_that_is_for_people() -> None:
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    documented = set(re.findall(r"^([a-z0-9-]+):.*## ", makefile, re.MULTILINE))
    listed = set(
        re.findall(
            r"^\| `make ([a-z0-9-]+)` \|", (REPO / "README.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    assert listed == documented


@pytest.mark.parametrize(
    ("check", "text", "found"),
    [
        (unknown_make_targets, "`make demo` and `make sense`", ["sense"]),
        (unknown_lab_commands, "`.venv/bin/lab up x`, `lab fly`", ["fly"]),
        (unknown_settings, "`memoryark_domain`, `memoryark_domian`", ["memoryark_domian"]),
        (missing_files, "`stack/networks.yml`, `stack/nothing.yml`", ["stack/nothing.yml"]),
        (commands, "```sh\na  # why\n\nb\n```\n```\nc\n```", ["a", "b"]),
    ],
)
def test_what_does_not_exist_is_found(check: Callable[[str], list[str]], text: str, found: list[str]) -> None:
    assert check(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[a](README.md)", []),
        ("[a](nowhere.md)", ["nowhere.md"]),
        ("# One thing\n[a](#one-thing) [b](#another)", ["#another"]),
        ("[a](https://example.org/x)", []),
    ],
)
def test_dead_links_are_found(text: str, found: list[str]) -> None:
    assert dead_links(REPO / "some.md", text) == found
