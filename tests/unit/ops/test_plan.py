"""What differs is done, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.module_utils.plan import (
    Found,
    Plan,
    by_digest,
    downtimes,
    make_plan,
)
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
    without_order,
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
MORE = replace(WANTED, units=(A, B, replace(B, name="memoryark-c", service="c")))


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
        "openings": {},
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


def test_what_only_orders_starts_makes_no_other_container() -> None:
    """Else each change of replicas would start the proxy anew, which waits for all of them."""
    unit = "[Unit]\nWants=b.service\nAfter=b.service\nRequires=c.service\n\n[Container]\nExec=x\nAfter=y\n"
    assert without_order(unit) == "[Unit]\nRequires=c.service\n\n[Container]\nExec=x\nAfter=y\n"


def test_the_container_carries_the_fingerprint() -> None:
    unit = label_unit("[Unit]\nX=[Container]\n\n[Container]\nImage=x\n", "f")
    assert unit == "[Unit]\nX=[Container]\n\n[Container]\nLabel=io.memoryark.fingerprint=f\nImage=x\n"


def bot(number: str = "", **changes: Any) -> Unit:
    """A container of a service that serves on while it is changed."""
    plain = Unit(
        f"memoryark-r{number}", "r", "r.test/r@sha256:1", 1, f"Network=n:ip=10.0.0.1{number}", f"f{number}"
    )
    return replace(plain, **{"rolling": True, "surge": number == "-next", "ports": (3000,), **changes})


SURGE = [bot(), bot("-next")]
TWO = [bot(), bot("-2")]
ON_NETWORK = {
    "n": {"name": "n", "interface": "n", "internal": False, "ipv6": False, "subnets": ["10.0.0.0/24"]}
}


def running(*units: Unit, old: bool = True, **changes: Any) -> Found:
    """A host on which units run, with an older fingerprint."""
    steady = [unit for unit in units if not unit.surge]
    found = Found(
        release=Release(units),
        fingerprints={unit.name: "old" if old else unit.fingerprint for unit in steady},
        active=frozenset(unit.name for unit in steady),
        images=frozenset({"r.test/r@sha256:1"}),
    )
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("units", "found", "expected"),
    [
        (SURGE, running(*SURGE), {"roll": ["memoryark-r"]}),
        (TWO, running(*TWO), {"roll": ["memoryark-r", "memoryark-r-2"]}),
        # Nobody else serves meanwhile.
        (
            TWO,
            running(*TWO, active=frozenset({"memoryark-r"})),
            {"restart": ["memoryark-r", "memoryark-r-2"]},
        ),
        (SURGE, running(*SURGE, active=frozenset()), {"restart": ["memoryark-r"]}),
        # The proxy does not know of what would serve meanwhile, or knows it elsewhere.
        (SURGE, running(bot()), {"restart": ["memoryark-r"]}),
        (SURGE, running(bot(rolling=False), bot("-next")), {"restart": ["memoryark-r"]}),
        (SURGE, running(bot(text="Network=n:ip=10.0.0.9"), bot("-next")), {"restart": ["memoryark-r"]}),
        (SURGE, running(bot(ports=(3001,)), bot("-next")), {"restart": ["memoryark-r"]}),
        ([bot(ports=(3000, 3001)), bot("-next")], running(*SURGE), {"roll": ["memoryark-r"]}),
        # Left by a run that was interrupted.
        (
            SURGE,
            running(*SURGE, old=False, active=frozenset({"memoryark-r", "memoryark-r-next"}), trial=frozenset({"memoryark-r-next"}), fingerprints={"memoryark-r": "f", "memoryark-r-next": "f"}),
            {"retire": ["memoryark-r-next"], "repair": ["memoryark-r-next"]},
        ),
        (
            SURGE,
            running(*SURGE, old=False, trial=frozenset({"memoryark-r-next"})),
            {"repair": ["memoryark-r-next"]},
        ),
        # More and fewer.
        ([*TWO, bot("-next")], running(*SURGE, old=False), {"create": ["memoryark-r-2"]}),
        (SURGE, running(*TWO, bot("-next"), old=False), {"retire": ["memoryark-r-2"]}),
        ([bot(rolling=False)], running(*TWO, old=False), {"retire": ["memoryark-r-2"]}),
        (
            [bot(rolling=False)],
            running(bot(rolling=False), old=False, fingerprints={"memoryark-r": "f", "memoryark-r-2": "f"}, failed=Release(tuple(TWO))),
            {"retire": ["memoryark-r-2"]},
        ),
        # Another service that is only called so.
        (
            [bot(rolling=False)],
            running(bot(rolling=False), bot("-2", service="r-2"), old=False),
            {"remove": ["memoryark-r-2"]},
        ),
        ([bot(rolling=False)], running(bot(rolling=False), old=False, fingerprints={"memoryark-r": "f", "memoryark-r-2": "f"}), {"remove": ["memoryark-r-2"]}),
        ([A], running(*SURGE, old=False), {"create": ["memoryark-a"], "remove": ["memoryark-r"]}),
    ],
)  # fmt: skip
def test_a_service_that_serves_on(units: list[Unit], found: Found, expected: dict[str, list[str]]) -> None:
    plan = make_plan(Release(tuple(units)), found)
    words = {"create", "restart", "roll", "start", "remove", "retire", "repair"}
    shown = {name: names for name, names in plan.shown().items() if names and name in words}
    assert shown == expected


PROXY = Unit(
    "memoryark-p", "p", "r.test/r@sha256:1", 2, "ExecReload=podman exec p old", "fp", "p/1", live=True
)
RENAMED = replace(PROXY, text="ExecReload=podman exec p new", fingerprint="new")


@pytest.mark.parametrize(
    ("wanted", "known", "failed", "container", "rolled"),
    [
        (PROXY, PROXY, None, "fp", True),
        (replace(PROXY, fingerprint="new"), PROXY, None, "fp", True),
        # The container that runs may not have the program that the wanted unit calls.
        (RENAMED, PROXY, None, "fp", False),
        # An earlier run has come so far already.
        (RENAMED, PROXY, None, "new", True),
        # On the way back from a release that failed before its turn, and after it.
        (PROXY, PROXY, RENAMED, "fp", True),
        (PROXY, PROXY, RENAMED, "new", False),
        (PROXY, PROXY, replace(PROXY, fingerprint="new"), "new", True),
    ],
)
def test_a_service_is_rolled_only_behind_a_proxy_that_understands(
    wanted: Unit, known: Unit, failed: Unit | None, container: str, rolled: bool
) -> None:
    configs = {"p/1": {"up.conf": "  server 10.0.0.1; # instance memoryark-r"}}
    found = running(*SURGE, known)
    found = replace(
        found,
        fingerprints={**found.fingerprints, PROXY.name: container},
        failed=Release((failed,)) if failed else Release(),
    )
    plan = make_plan(Release((*SURGE, wanted), configs=configs), found)
    assert ("memoryark-r" in plan.roll, "memoryark-r" in plan.restart) == (rolled, not rolled)


def test_a_network_that_is_made_anew_takes_all_of_a_service() -> None:
    unit = bot(text="\nNetwork=n:ip=10.0.0.1")
    wanted = Release((unit, bot("-next")), networks=ON_NETWORK)
    found = running(unit, bot("-next"), old=False)
    assert make_plan(wanted, found).restart == ("memoryark-r",)


def test_a_link_address_that_is_new_keeps_no_service_from_being_rolled() -> None:
    """A release of before may have the same fixed address without one."""
    before = bot(text="\nNetwork=n:alias=r,ip=10.0.0.1\n")
    for line, rolled in (("alias=r,ip=10.0.0.1,mac=02:44:0a:00:00:01", True), ("alias=r,ip=10.0.0.2", False)):
        unit = bot(text=f"\nNetwork=n:{line}\n")
        plan = make_plan(Release((unit, bot("-next"))), running(before, bot("-next"), old=True))
        assert ("memoryark-r" in plan.roll) == rolled


def test_what_a_plan_costs() -> None:
    keeper = Unit("memoryark-k", "k", "i", 0, "", "", databases=("/d",))
    plan = Plan(
        create=("memoryark-a",),
        restart=("memoryark-b", "memoryark-k"),
        roll=("memoryark-r",),
        reload=("memoryark-l",),
        remove=("memoryark-g",),
        retire=("memoryark-r-2",),
    )
    assert downtimes(Release((keeper,)), plan) == {
        "memoryark-a": "none",
        "memoryark-b": "seconds",
        "memoryark-k": "backup",
        "memoryark-r": "none",
        "memoryark-l": "none",
        "memoryark-g": "removed",
        "memoryark-r-2": "none",
    }
