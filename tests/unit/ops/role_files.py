"""Which files the roles write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any


def written(tasks: Iterable[Mapping[str, Any]]) -> set[str]:
    """The paths that tasks with ``memoryark.ops.files`` write, also those that stand in variables of a task."""
    return {entry["path"] for task in tasks for entry in _entries(task)}


def _entries(task: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    files = task.get("memoryark.ops.files", {}).get("files", ())
    return chain.from_iterable(task["vars"].values()) if isinstance(files, str) else files
