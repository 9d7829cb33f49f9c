"""What differs is done, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.memoryark.ops.plugins.module_utils.plan import Found, by_digest, make_plan
from ansible_collections.memoryark.ops.plugins.module_utils.release import (
    Release,
    Unit,
    bind,
    bind_secrets,
    fingerprint,
    label_unit,
    named_secrets,
    secret_names,
    secret_version,
)
from machine import PLAIN

SECRET = "Secret=memoryark-token-1,type=env"
A = Unit("memoryark-a", "a", "r.test/a@sha256:1", 0, f"A\n{SECRET}", "fa", "a/1")
B = Unit("memoryark-b", "b", "r.test/b@sha256:1", 1, "B", "fb")
WANTED = Release((A, B), {"memoryark.target": "T"}, {"a/1": {"a.conf": "one"}})
SETTLED = Found(
    release=WANTED,
    fingerprints={"memoryark-a": "fa", "memoryark-b": "fb"},
    active=frozenset({"memoryark-a", "memoryark-b"}),
    images=frozenset({"r.test/a@sha256:1", "r.test/b@sha256:1"}),
    secrets=frozenset({"memoryark-token-1"}),
)
OTHER = replace(WANTED, units=(replace(A, text="old", fingerprint="f0"), B))
MORE = replace(WANTED, units=(A, B, replace(B, name="memoryark-c")))


def test_a_settled_host_is_left_alone() -> None:
    plan = make_plan(WANTED, SETTLED)
    assert plan.empty
    assert plan.levels == ()


def test_a_virgin_host_gets_everything_in_order() -> None:
    plan = make_plan(WANTED, Found())
    assert plan.create == ("memoryark-a", "memoryark-b")
    assert plan.pull == (A.image, B.image)
    assert plan.write == (
        "config/a/a.conf",
        "memoryark-a.container",
        "memoryark-b.container",
        "memoryark.target",
    )
    assert plan.levels == (("memoryark-a",), ("memoryark-b",))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            replace(SETTLED, damaged=frozenset({"memoryark-a"})),
            {"write": ["memoryark-a.container"], "restart": ["memoryark-a"]},
        ),
        (
            replace(SETTLED, damaged=frozenset({"a/1"})),
            {"write": ["config/a/a.conf"], "restart": ["memoryark-a"]},
        ),
        (replace(SETTLED, damaged=frozenset({"memoryark.target"})), {"write": ["memoryark.target"]}),
        (replace(SETTLED, secrets=frozenset()), {"secrets": ["memoryark-token-1"]}),
        (
            replace(SETTLED, release=OTHER, fingerprints={"memoryark-a": "f0", "memoryark-b": "fb"}),
            {"write": ["memoryark-a.container"], "restart": ["memoryark-a"]},
        ),
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
        (
            replace(SETTLED, release=MORE),
            {"delete": ["memoryark-c.container"], "remove": ["memoryark-c"]},
        ),
        (
            replace(SETTLED, fingerprints={**SETTLED.fingerprints, "memoryark-c": "fc"}),
            {"remove": ["memoryark-c"]},
        ),
        (replace(SETTLED, trial=frozenset({"memoryark-a"})), {"repair": ["memoryark-a"]}),
    ],
)
def test_one_difference_one_action(found: Found, expected: dict[str, list[str]]) -> None:
    plan = make_plan(WANTED, found)
    assert {name: units for name, units in plan.shown().items() if units} == expected
    assert not plan.empty


def test_a_release_is_kept_and_read_back() -> None:
    assert Release.from_json(WANTED.to_json()) == WANTED


def test_a_release_of_another_version_is_read_as_far_as_it_is_known() -> None:
    raw = json.loads(WANTED.to_json())
    for unit in raw["units"]:
        del unit["databases"]
        unit["of_a_later_version"] = True
    del raw["networks"]
    assert Release.from_json(json.dumps(raw)) == WANTED


def test_a_release_names_the_secrets_of_its_units() -> None:
    assert WANTED.secrets == {"memoryark-token-1"}
    assert named_secrets("[Container]\nSecret=x-1,type=mount,target=a\nEnvironment=Secret=no\n") == ["x-1"]


def test_a_set_of_configuration_is_named_by_its_content() -> None:
    params = {
        "quadlets": {"memoryark-a.container": "[Unit]\n\n[Container]\nVolume=/srv/a/{config}:/etc/a\n"},
        "configs": {"a": {"a.conf": "one"}},
        "systemd_units": {},
        "networks": [],
        "services": [
            {
                **PLAIN,
                "name": "a",
                "unit": "memoryark-a",
                "image": "i",
                "check": ["check", "/srv/a/{config}"],
            }
        ],
    }
    first = bind(params, {})
    second = bind({**params, "configs": {"a": {"a.conf": "two"}}}, {})
    assert first.units[0].fingerprint != second.units[0].fingerprint
    (name,) = first.configs
    assert f"Volume=/srv/{name}:/etc/a" in first.units[0].text
    assert first.units[0].check == ("check", f"/srv/{name}")
    assert set(first.configs).isdisjoint(second.configs)


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
