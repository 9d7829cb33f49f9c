import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.interpolation import interpolate, interpolate_tree
from hypothesis import given
from hypothesis import strategies as st

VARIABLES = {"NAME": "ark", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$NAME-x", "ark-x"),
        ("${NAME}", "ark"),
        ("${NAME:-other}", "ark"),
        ("${OTHER:-other}", "other"),
        ("${OTHER-}", ""),
        ("${EMPTY:-other}", "other"),
        ("${EMPTY-other}", ""),
        ("$$NAME", "$NAME"),
        ("${NAME:?needed}/$NAME", "ark/ark"),
    ],
)
def test_values(text: str, expected: str) -> None:
    assert interpolate(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${OTHER}", "variable OTHER is not set"),
        ("$OTHER", "variable OTHER is not set"),
        ("${EMPTY:?say who}", "say who"),
        ("5$", "starts no variable"),
        ("${1}", "starts no variable"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolate(text, VARIABLES)


def test_a_tree_reports_every_error_with_its_path() -> None:
    tree = {"a": ["$NAME", {"b": "$X"}], "c": 5, "d": "${Y}"}
    done, errors = interpolate_tree(tree, VARIABLES)
    assert done["a"][0] == "ark"
    assert done["c"] == 5
    assert [path for path, _error in errors] == ["a[1].b", "d"]


@given(st.text(alphabet=st.characters(exclude_characters="$")))
def test_text_without_dollars_is_left_alone(text: str) -> None:
    assert interpolate(text, {}) == text


@given(st.text())
def test_doubled_dollars_come_out_as_they_were(text: str) -> None:
    assert interpolate(text.replace("$", "$$"), {}) == text
