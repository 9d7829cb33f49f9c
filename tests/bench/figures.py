"""What numbers of a benchmark come to: pure functions, tried in tests/unit/bench."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pairs:
    """Seconds of A and B, taken in turn: what disturbs one of a pair disturbs the other as well."""

    taken: tuple[tuple[float, float], ...]

    @property
    def medians(self) -> tuple[float, float]:
        """Median seconds of A and of B."""
        first, second = zip(*self.taken, strict=True)
        return statistics.median(first), statistics.median(second)

    @property
    def ratio(self) -> float:
        """How many times as long B takes: the median of the pairs' own ratios."""
        return statistics.median(second / first for first, second in self.taken)


def number(value: float) -> str:
    """Render a measured value with about three digits: no fraction above a hundred, thousandths below 0.1."""
    fraction = next((digits for least, digits in ((100, 0), (10, 1), (0.1, 2)) if value >= least), 3)
    return f"{value:.{fraction}f}"


def verdict(met: bool) -> str:
    """Render whether a goal was met."""
    return "met" if met else "**missed**"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Render a Markdown table; numbers that are no whole ones by ``number``."""

    def line(cells: Iterable[object]) -> str:
        return "".join(f"| {number(cell) if isinstance(cell, float) else cell} " for cell in cells) + "|\n"

    return line(head) + "|---" * len(head) + "|\n" + "".join(line(row) for row in rows)
