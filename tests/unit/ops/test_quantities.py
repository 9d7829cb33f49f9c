import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.quantities import (
    parse_cpus,
    parse_duration,
    parse_size,
    seconds,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 2**29),
        ("512m", 2**29),
        ("512mb", 2**29),
        ("1g", 2**30),
        ("2k", 2048),
        ("7b", 7),
        (1024, 1024),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["512X", "0.5g", "", "M", "-1m", "5 5", True])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5s", 5), ("1m30s", 90), ("2h", 7200), ("250ms", 0.25), ("1.5s", 1.5), ("10us", 1e-5)],
)
def test_durations(text: str, expected: float) -> None:
    assert parse_duration(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["5", "s", "5 s", "", "1d", 5, "-5s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "cpus"), [("0.5", 0.5), (2, 2.0), ("1.0", 1.0)])
def test_cpus(text: str | float, cpus: float) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["0", "-1", "two", "inf", "nan", True, None])
def test_no_cpus(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number of processors"):
        parse_cpus(text)


@given(st.text())
def test_any_text_is_a_size_or_a_clear_error(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ValueError as error:
        assert "is not a size" in str(error)


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h"]))
def test_durations_add_up(number: int, unit: str) -> None:
    assert parse_duration(f"{number}{unit}{number}{unit}") == pytest.approx(
        2 * parse_duration(f"{number}{unit}")
    )


@pytest.mark.parametrize(
    ("value", "text"), [(5.0, "5s"), (0.5, "0.5s"), (180.0, "180s"), (86400.0, "86400s")]
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text
