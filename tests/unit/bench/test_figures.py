"""Medians, ratios and tables."""

from __future__ import annotations

import pytest

from tests.bench.figures import Pairs, number, table


def test_medians_are_of_each_and_the_ratio_is_of_the_pairs() -> None:
    # The second pair was disturbed: both took twice as long, and its ratio is as the others'.
    pairs = Pairs(((10.0, 50.0), (20.0, 110.0), (11.0, 66.0)))
    assert pairs.medians == (11.0, 66.0)
    assert pairs.ratio == 5.5


def test_a_ratio_below_one_says_that_ours_is_slower() -> None:
    assert Pairs(((4.0, 2.0),)).ratio == 0.5


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (0.0042, "0.004"), (0.1, "0.10"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123")],
)
def test_numbers_have_as_many_digits_as_they_deserve(value: float, text: str) -> None:
    assert number(value) == text


def test_a_table_renders_fractions_and_leaves_the_rest() -> None:
    assert (
        table(["a", "b"], [["x", 1.5], [2, "**missed**"]])
        == "| a | b |\n|---|---|\n| x | 1.50 |\n| 2 | **missed** |\n"
    )
