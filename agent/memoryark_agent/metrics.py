"""Metrics in the text format of Prometheus, version 0.0.4, for node exporter's textfile collector."""

from __future__ import annotations

from collections.abc import Mapping


def render(described: Mapping[str, str], values: Mapping[str, float | Mapping[str, float]]) -> str:
    """Return the text for those metrics of ``described`` (help by name) that have a value.

    A value may be several, by labels such as ``reason="input"``. By Prometheus' rules for names, what ends in
    ``_total`` is a counter; all others are gauges.
    """
    return "".join(_metric(name, text, values[name]) for name, text in described.items() if name in values)


def _metric(name: str, text: str, value: float | Mapping[str, float]) -> str:
    kind = "counter" if name.endswith("_total") else "gauge"
    samples = value if isinstance(value, Mapping) else {"": value}
    lines = [f"{name}{f'{{{labels}}}' if labels else ''} {one!r}\n" for labels, one in samples.items()]
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n{''.join(lines)}"
