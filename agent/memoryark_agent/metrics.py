"""Metrics in the text format of Prometheus, version 0.0.4, for node exporter's textfile collector."""

from __future__ import annotations

from collections.abc import Mapping


def render(described: Mapping[str, str], values: Mapping[str, float]) -> str:
    """Return the text for gauges: those of ``described`` (help by name) that have a value."""
    return "".join(
        f"# HELP {name} {text}\n# TYPE {name} gauge\n{name} {values[name]!r}\n"
        for name, text in described.items()
        if name in values
    )
