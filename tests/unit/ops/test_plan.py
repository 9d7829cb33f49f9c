"""What differs is done, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.memoryark.ops.plugins.module_utils.plan import (
    Found,
    Wanted,
    WantedService,
    bind_secrets,
    by_digest,
    fingerprint,
    label_unit,
    make_plan,
    secret_names,
    secret_version,
)

A = WantedService("a", "memoryark-a", "r.test/a@sha256:1", 0, ("/u/a",), "fa")
B = WantedService("b", "memoryark-b", "r.test/b@sha256:1", 1, ("/u/b",), "fb")
WANTED = Wanted({"/u/a": "A", "/u/b": "B"}, (A, B), frozenset({"memoryark-token-1"}))
SETTLED = Found(
    files={"/u/a": "A", "/u/b": "B"},
    owned=frozenset({"/u/a", "/u/b"}),
    units=frozenset({"memoryark-a", "memoryark-b"}),
    fingerprints={"memoryark-a": "fa", "memoryark-b": "fb"},
    active=frozenset({"memoryark-a", "memoryark-b"}),
    images=frozenset({"r.test/a@sha256:1", "r.test/b@sha256:1"}),
    secrets=frozenset({"memoryark-token-1"}),
)


def test_a_settled_host_is_left_alone() -> None:
    plan = make_plan(WANTED, SETTLED)
    assert plan.empty
    assert plan.levels == ()


def test_a_virgin_host_gets_everything_in_order() -> None:
    plan = make_plan(WANTED, Found())
    assert plan.create == ("memoryark-a", "memoryark-b")
    assert plan.pull == (A.image, B.image)
    assert plan.write == ("/u/a", "/u/b")
    assert plan.levels == (("memoryark-a",), ("memoryark-b",))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            replace(SETTLED, files={"/u/a": "old", "/u/b": "B"}),
            {"write": ["/u/a"], "restart": ["memoryark-a"]},
        ),
        (replace(SETTLED, files={"/u/b": "B"}), {"write": ["/u/a"]}),
        (replace(SETTLED, secrets=frozenset()), {"secrets": ["memoryark-token-1"]}),
        (
            replace(SETTLED, fingerprints={"memoryark-a": "old", "memoryark-b": "fb"}),
            {"restart": ["memoryark-a"]},
        ),
        (replace(SETTLED, fingerprints={"memoryark-b": "fb"}), {"restart": ["memoryark-a"]}),
        (replace(SETTLED, active=frozenset({"memoryark-a"})), {"start": ["memoryark-b"]}),
        (
            replace(SETTLED, active=frozenset({"memoryark-a"}), fingerprints={"memoryark-a": "fa"}),
            {"start": ["memoryark-b"]},
        ),
        (replace(SETTLED, images=frozenset({"r.test/a@sha256:1"})), {"pull": ["r.test/b@sha256:1"]}),
        (replace(SETTLED, owned=SETTLED.owned | {"/u/c"}), {"delete": ["/u/c"]}),
        (replace(SETTLED, units=SETTLED.units | {"memoryark-c"}), {"remove": ["memoryark-c"]}),
    ],
)
def test_one_difference_one_action(found: Found, expected: dict[str, list[str]]) -> None:
    plan = make_plan(WANTED, found)
    assert {name: units for name, units in plan.shown().items() if units} == expected
    assert not plan.empty


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("r.test:5000/a/b:1.2@sha256:0", "r.test:5000/a/b@sha256:0"),
        ("r.test:5000/a/b@sha256:0", "r.test:5000/a/b@sha256:0"),
        ("r.test/b:1", "r.test/b:1"),
    ],
)
def test_podman_names_images_without_their_tag(reference: str, expected: str) -> None:
    assert by_digest(reference) == expected


def test_a_secret_is_named_by_its_version() -> None:
    key = b"k" * 32
    first, second = secret_version(key, "one"), secret_version(key, "two")
    assert first != second
    assert first != secret_version(b"x" * 32, "one")
    names = secret_names({"token": first})
    assert bind_secrets("Secret={secret:token},type=env", names) == f"Secret=memoryark-token-{first},type=env"


def test_an_unknown_secret_is_an_error() -> None:
    with pytest.raises(KeyError):
        bind_secrets("Secret={secret:other}", {})


def test_fingerprints_do_not_confuse_boundaries() -> None:
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])


def test_the_container_carries_the_fingerprint() -> None:
    unit = label_unit("[Unit]\nX=[Container]\n\n[Container]\nImage=x\n", "f")
    assert unit == "[Unit]\nX=[Container]\n\n[Container]\nLabel=io.memoryark.fingerprint=f\nImage=x\n"
