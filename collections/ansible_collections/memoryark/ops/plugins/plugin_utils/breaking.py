# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Breaking changes of the project: a list with versions, which an operator acknowledges up to one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import Problem, ProblemsError

SETTING = "memoryark_acknowledged"
_WHERE = f"inventory {SETTING}"
# The words before what changed and what to do, by language.
WORDS = {"en": ("What changed: ", "What to do: "), "zh-TW": ("有什麼改變：", "要做什麼：")}
TEXTS = ("title", "changed", "do")


@dataclass(frozen=True)
class Change:
    """One breaking change; its texts are by language."""

    version: int
    title: Mapping[str, str]
    changed: Mapping[str, str]
    do: Mapping[str, str]

    def __str__(self) -> str:
        lines = []
        for language, (changed, to_do) in WORDS.items():
            lines += [
                f"{self.version}. {self.title[language].strip()}",
                f"   {changed}{_indented(self.changed[language])}",
                f"   {to_do}{_indented(self.do[language])}",
            ]
        return "\n".join(lines)


def load_changes(path: Path) -> list[Change]:
    """Return the breaking changes in a file, oldest first; raises ProblemsError with all that is wrong."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ProblemsError([Problem(path.name, f"cannot be read: {error}")]) from error
    if not isinstance(entries, list):
        raise ProblemsError([Problem(path.name, "is not a list.")])
    problems = [
        Problem(f"{path.name} entry {place}", what)
        for place, entry in enumerate(entries, start=1)
        for what in _complaints(entry)
    ]
    if problems:
        raise ProblemsError(problems)
    changes = [Change(**entry) for entry in entries]
    versions = [0, *(change.version for change in changes)]
    for before, version in pairwise(versions):
        if version <= before:
            what = f"its version {version} has to be above the one before it, {before}."
            problems.append(Problem(f"{path.name} version {version}", what))
    if problems:
        raise ProblemsError(problems)
    return changes


def newest(changes: Sequence[Change]) -> int:
    """Return the version of the project: that of the last breaking change, 0 before the first."""
    return changes[-1].version if changes else 0


def check_acknowledged(changes: Sequence[Change], deployed: int | None, acknowledged: Any) -> list[Problem]:
    """Return what the operator has to read first, or why this version cannot be deployed.

    ``deployed`` is the version of the project that the server was last deployed with, None for a virgin
    server. A value of ``acknowledged`` that is no number was reported by ``check_settings``.
    """
    present = newest(changes)
    seen = int(acknowledged) if str(acknowledged).isdecimal() else 0
    if seen > present:
        return [Problem(_WHERE, f"{seen} is above the newest version, {present}; set it to {present}.")]
    if deployed is None:
        return []
    if deployed > present:
        what = (
            f"was last deployed with version {deployed} of this project, and this working copy is version "
            f"{present}; bring it up to date with `git pull`, then run this again. For an earlier release of "
            "the application use playbooks/rollback.yml of the newer working copy."
        )
        return [Problem("version of the server", what)]
    unread = [change for change in changes if change.version > max(deployed, seen)]
    if not unread:
        return []
    what = (
        f"this server was last deployed with version {deployed} of this project, this is version {present}. "
        f"Do what is said below, then set {SETTING}: {present}"
    )
    return [Problem(_WHERE, "\n".join([what, *(_indented(str(change), "    ") for change in unread)]))]


def _complaints(entry: Any) -> list[str]:
    """Return what is wrong with the form of one entry."""
    if not isinstance(entry, dict) or set(entry) != {"version", *TEXTS}:
        return [f"has to have the keys version, {', '.join(TEXTS)}, and no others."]
    found = []
    if not isinstance(entry["version"], int) or isinstance(entry["version"], bool):
        found.append(f"its version is '{entry['version']}' and has to be a whole number.")
    for name in TEXTS:
        texts = entry[name]
        if not (isinstance(texts, dict) and set(texts) == set(WORDS) and all(map(_is_text, texts.values()))):
            found.append(f"'{name}' has to have a text in each of {', '.join(WORDS)}.")
    return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _indented(text: str, first: str = "") -> str:
    """Return a text whose lines after the first stand below it."""
    return first + text.strip().replace("\n", "\n" + (first or "   "))
