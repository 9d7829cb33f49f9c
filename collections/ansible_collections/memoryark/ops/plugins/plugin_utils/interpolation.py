# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compose variable interpolation: ``${NAME}``, ``${NAME:-default}``, ``${NAME:?message}``, ``$$``.

Source: the Compose Specification, chapter "Interpolation". One deliberate difference: a variable
that is not set is an error, not an empty string, because an empty domain or path is never meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_REFERENCE = re.compile(
    r"\$(?:(?P<escaped>\$)"
    r"|(?P<plain>[A-Za-z_][A-Za-z0-9_]*)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<operator>:?[-?])(?P<word>[^}]*))?\}"
    r"|(?P<bad>))"
)


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace every reference in ``text``; raises ValueError for unset variables and stray ``$``."""

    def replace(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        name = match["plain"] or match["name"]
        if name is None:
            raise ValueError(f"'{text}' has a '$' that starts no variable; write $$ for a plain dollar sign")
        operator, word = match["operator"] or "", match["word"] or ""
        value = variables.get(name)
        if value is not None and (value != "" or not operator.startswith(":")):
            return str(value)
        if operator.endswith("-"):
            return word
        raise ValueError(word if operator.endswith("?") and word else f"variable {name} is not set")

    return _REFERENCE.sub(replace, text)


def interpolate_tree(
    node: Any, variables: Mapping[str, str], path: str = ""
) -> tuple[Any, list[tuple[str, str]]]:
    """Interpolate every string value below ``node``; return the new tree and ``(path, error)`` pairs."""
    if isinstance(node, str):
        try:
            return interpolate(node, variables), []
        except ValueError as error:
            return node, [(path, str(error))]
    errors: list[tuple[str, str]] = []
    if isinstance(node, Mapping):
        tree: dict[str, Any] = {}
        for key, value in node.items():
            tree[key], found = interpolate_tree(value, variables, f"{path}.{key}" if path else str(key))
            errors += found
        return tree, errors
    if isinstance(node, list):
        items = []
        for index, value in enumerate(node):
            item, found = interpolate_tree(value, variables, f"{path}[{index}]")
            items.append(item)
            errors += found
        return items, errors
    return node, []
