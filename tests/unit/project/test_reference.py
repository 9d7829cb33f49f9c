"""docs/reference says what the code says."""

from __future__ import annotations

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.schema import load_schema
from memoryark_lab import reference
from memoryark_lab.reference_pages import SECTIONS, keys, meanings, plain, size, table, unexplained


def test_the_pages_are_up_to_date() -> None:
    assert not reference.out_of_date(), "docs/reference is out of date; run `.venv/bin/lab reference`"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_compose_key_has_a_meaning(section: str) -> None:
    forms = keys(load_schema(), section)
    assert unexplained(list(forms), meanings()[section]) == [], (
        "add it to docs/reference/compose-meanings.yml"
    )
    assert set(meanings()[section]) <= set(forms), "compose-meanings.yml explains a key that is not supported"


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("image", False),
        ("build.context", False),
        ("deploy", False),
        ("deploy.replicas", True),
        ("imagery", True),
        ("ports[].target", False),
    ],
)
def test_unexplained_keys_are_found(path: str, missing: bool) -> None:
    known = {"image": "", "build": "", "deploy.resources": "", "ports": ""}
    assert unexplained([path], known) == ([path] if missing else [])


def test_cells_do_not_end_a_table() -> None:
    assert table(["a"], [["b | c"]]) == "| a |\n| --- |\n| b \\| c |"


def test_markup_is_turned_into_code() -> None:
    assert plain("See M(a.b.c) and C(d).") == ["See `a.b.c` and `d`."]


@pytest.mark.parametrize(
    ("amount", "shown"), [(0, "0 B"), (1000, "1000 B"), (2**20, "1 MiB"), (3 * 2**29, "1536 MiB")]
)
def test_sizes(amount: int, shown: str) -> None:
    assert size(amount) == shown
