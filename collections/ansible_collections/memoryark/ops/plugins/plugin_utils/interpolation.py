# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compose variable interpolation: ``${NAME}``, ``${NAME:-default}``, ``${NAME:?message}``, ``$$``.

Defaults and messages may have references of their own. Source: the Compose Specification, chapter
"Interpolation". One deliberate difference: a variable
that is not set is an error, not an empty string, because an empty domain or path is never meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(rf"(?P<name>{_NAME.pattern})(?:(?P<operator>:?[-?])(?P<word>.*))?", re.DOTALL)


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace every reference in ``text``; raises ValueError for unset variables and stray ``$``."""
    parts, position = [], 0
    while (dollar := text.find("$", position)) >= 0:
        parts.append(text[position:dollar])
        if text.startswith("$$", dollar):
            value, position = "$", dollar + 2
        elif plain := _NAME.match(text, dollar + 1):
            value, position = _value(plain[0], "", "", variables), plain.end()
        else:
            position = _end_of_braces(text, dollar)
            braced = _BRACED.fullmatch(text, dollar + 2, max(position - 1, dollar + 2))
            if braced is None or not position:
                raise ValueError(
                    f"'{text}' has a '$' that starts no variable; write $$ for a plain dollar sign"
                )
            value = _value(braced["name"], braced["operator"] or "", braced["word"] or "", variables)
        parts.append(value)
    return "".join([*parts, text[position:]])


def _end_of_braces(text: str, dollar: int) -> int:
    """Return the position after the brace that ends the reference at ``dollar``, 0 if there is none."""
    if not text.startswith("${", dollar):
        return 0
    depth = 0
    for match in re.finditer(r"\$\$|\$\{|\}", text[dollar:]):
        depth += {"${": 1, "}": -1}.get(match[0], 0)
        if not depth:
            return dollar + match.end()
    return 0


def _value(name: str, operator: str, word: str, variables: Mapping[str, str]) -> str:
    value = variables.get(name)
    if value is not None and (value != "" or not operator.startswith(":")):
        return str(value)
    if operator.endswith("-"):
        return interpolate(word, variables)
    message = interpolate(word, variables) if operator.endswith("?") else ""
    raise ValueError(message or f"variable {name} is not set")


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
