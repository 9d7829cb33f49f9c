# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks a Compose document against the supported subset and words the findings for an operator."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import Problem, suggestion
from ansible_collections.memoryark.ops.plugins.plugin_utils.quantities import (
    parse_cpus,
    parse_duration,
    parse_size,
)

# Below these a text is what its author wants, and is quoted.
FREE = {"environment", "command", "entrypoint", "test", "labels", "args", "check", "reload"}
# The end of the path of a key.
KEY = "(key)"
SCHEMA_FILE = Path(__file__).with_name("compose.schema.json")
_FORMATS: dict[str, Callable[[Any], float]] = {
    "size": parse_size,
    "duration": parse_duration,
    "cpus": parse_cpus,
}


def load_schema() -> dict[str, Any]:
    """Return the JSON Schema of the supported Compose subset."""
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def check_document(document: Any, source: str) -> list[Problem]:
    """Return every way in which ``document``, read from ``source``, leaves the supported subset."""
    # Imported here so that the pure parts of the collection load without it.
    import jsonschema  # noqa: PLC0415

    formats = jsonschema.FormatChecker(formats=())
    for name, parse in _FORMATS.items():
        formats.checks(name, raises=ValueError)(_accepts(parse))
    validator = jsonschema.Draft202012Validator(load_schema(), format_checker=formats)
    found = [problem for error in validator.iter_errors(document) for problem in _problems(error, source)]
    return found + [
        Problem(f"{source}: {dotted(path)}", what)
        for path, text in texts(document)
        if (what := wrong_text(text, free=path[-1:] != (KEY,) and not FREE.isdisjoint(path[2:])))
    ]


def texts(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield every text below ``node`` with its path; that of a key ends in ``KEY``."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from texts(key, (*path, KEY)) if isinstance(key, str) else ()
            yield from texts(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from texts(value, (*path, index))


def wrong_text(text: str, *, free: bool) -> str:
    """Return what is wrong with a text that becomes a part of a unit, nothing if it is right.

    One that is ``free`` is quoted there and may have several lines; any other could bring a line of its own.
    """
    if unprintable := set(re.findall(r"[\x00-\x1f\x7f]", text)) - (set("\t\n\r") if free else set()):
        return f"{shown(text)} has a character that no text may have here: {sorted(unprintable)[0]!r}."
    if mark := re.search(r"\{config\}|\{secret:", text):
        return f"{shown(text)} has '{mark[0]}', by which the host finds configuration and secrets."
    return ""


def _accepts(parse: Callable[[Any], float]) -> Callable[[object], bool]:
    def accepts(value: object) -> bool:
        parse(value)
        return True

    return accepts


def _problems(error: Any, source: str) -> Iterator[Problem]:
    """Word one jsonschema error; alternatives are explained by the one that came closest."""
    where = f"{source}: {dotted(error.absolute_path)}" if error.absolute_path else source
    if error.validator == "anyOf":
        closest = [found for found in error.context if _fits_type(found, error)]
        if closest:
            for found in closest:
                yield from _problems(found, source)
            return
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = error.schema.get("properties", {})
        for key in error.instance:
            if key not in known:
                yield Problem(where, f"'{key}' is not supported here.{suggestion(str(key), known)}")
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                yield Problem(where, f"'{key}' is missing.")
    elif error.cause is not None:
        yield Problem(where, f"{error.cause}.")
    else:
        yield Problem(
            where, f"{shown(error.instance)} is not {error.schema.get('description', 'allowed here')}."
        )


def _fits_type(found: Any, parent: Any) -> bool:
    """Tell whether an alternative has the type of what was written and complains about its content."""
    return len(found.absolute_path) > len(parent.absolute_path) or found.validator in {
        "additionalProperties",
        "required",
    }


def shown(value: Any) -> str:
    """Render a YAML value for a message, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def dotted(path: Any) -> str:
    """Render a path of keys and indexes as in ``services.redis.ports[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
