"""The firewall's rules, what a catalogue opens in them, and how new ones are tried."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.memoryark.ops.plugins.action import firewall as action
from ansible_collections.memoryark.ops.plugins.module_utils import guard, nftables
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.nftables import SETS, Opening, Rules
from ansible_collections.memoryark.ops.plugins.modules.firewall import keep
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import load_catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Network, Port
from ansible_collections.memoryark.ops.plugins.plugin_utils.openings import openings, seen_from_outside
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import ProblemsError
from memoryark_lab.paths import REPO
from memoryark_lab.reference_pages import catalogue

# --- What a release opens


def test_the_catalogue_opens_the_proxy_to_the_world_and_line_to_the_bot() -> None:
    found = openings(catalogue(REPO / "stack"))
    bridges = ["ark-backend", "ark-egress", "ark-frontend", "ark-monitoring"]
    assert found == {
        "inside": [f"{bridge} . {bridge}" for bridge in bridges],
        "bridges": bridges,
        "public": ["ark-frontend"],
        "published_tcp": ["443", "80"],
        "published_udp": [],
        "egress": ["ark-egress . tcp . 443"],
        "resolvers_ipv4": [
            f"{bridge} . 10.89.{n}.1" for bridge, n in zip(bridges, (2, 4, 1, 3), strict=True)
        ],
        "resolvers_ipv6": ["ark-frontend . fd4d:656d:6f72:1::1"],
    }


def test_a_port_that_is_published_on_a_loopback_address_stays_closed() -> None:
    ports = [
        Port(1, 1, host_ip="127.0.0.1"),
        Port(2, 2, host_ip="::1"),
        Port(3, 3, host_ip="192.0.2.1"),
        Port(4, 4),
    ]
    assert [port.published for port in seen_from_outside(ports)] == [3, 4]


def test_ports_and_egress_are_opened_by_protocol() -> None:
    made = catalogue(REPO / "stack")
    wide = Network(
        "wide", "w", "ark-wide", False, False, ("10.1.0.0/24",), egress=(("udp", 123), ("tcp", 25))
    )
    proxy = replace(made.services["nginx-proxy"], ports=(Port(443, 8443, "udp"), Port(443, 8443)))
    found = openings(replace(made, networks={**made.networks, "wide": wide}, services={"nginx-proxy": proxy}))
    assert (found["published_tcp"], found["published_udp"]) == (["443"], ["443"])
    assert {"ark-wide . tcp . 25", "ark-wide . udp . 123"} < set(found["egress"])


@pytest.mark.parametrize(
    ("out", "problem"),
    [
        ({"internal": True}, "an internal network has no way out; take internal away, or egress"),
        ({"x-memoryark": {"egress": ["tcp/65536"]}}, "there is no port 65536"),
        ({"x-memoryark": {"egress": ["sctp/1"]}}, "a protocol and a port, such as tcp/443"),
        ({"x-memoryark": {"egres": ["tcp/1"]}}, "Did you mean 'egress'"),
    ],
)
def test_a_way_out_that_cannot_be_is_a_problem(out: dict[str, Any], problem: str) -> None:
    stack = REPO / "molecule" / "firewall" / "stack"
    images = {"web": f"r.test/web@sha256:{'0' * 64}"}
    network = {"name": "test-out-net", "ipam": {"config": [{"subnet": "10.99.2.0/24"}]}} | out
    with pytest.raises(ProblemsError, match=problem):
        load_catalogue(stack, override={"networks": {"out": network}}, images=images, secrets={"probe_token"})


def test_elements_come_instead_of_all_there_are_or_beside_them() -> None:
    text = nftables.elements({"published_tcp": ["80", "443"], "egress": ["ark-x . tcp . 25"]})
    assert text.splitlines() == [
        *(f"flush set inet memoryark {name}" for name in SETS),
        "add element inet memoryark published_tcp { 80, 443 }",
        'add element inet memoryark egress { "ark-x" . tcp . 25 }',
    ]
    beside = nftables.elements({"published_tcp": ["80"]}, replace=False)
    assert beside == "add element inet memoryark published_tcp { 80 }\n"


def test_differences_are_told_by_set_and_element() -> None:
    one, other = {"published_tcp": ["80", "443"]}, {"published_tcp": ["80"], "egress": ["a . tcp . 1"]}
    assert nftables.missing(one, other) == ["published_tcp 443"]
    assert nftables.missing(other, one) == ["egress a . tcp . 1"]


# --- Rules


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (Rules(), ["tcp dport { 22 } accept"]),
        (Rules(ssh_ports=(22, 2222)), ["tcp dport { 22, 2222 } accept"]),
        (
            Rules(ssh_sources=("192.0.2.7", "2001:db8::/48", "198.51.100.0/24")),
            [
                "ip saddr { 192.0.2.7/32, 198.51.100.0/24 } tcp dport { 22 } accept",
                "ip6 saddr { 2001:db8::/48 } tcp dport { 22 } accept",
            ],
        ),
        # nft refuses networks that overlap.
        (
            Rules(ssh_sources=("192.0.2.0/25", "192.0.2.0/24", "192.0.2.9")),
            ["ip saddr { 192.0.2.0/24 } tcp dport { 22 } accept"],
        ),
        (
            Rules(openings=(Opening(9100, sources=("192.0.2.7",)), Opening(161, "udp"))),
            [
                "tcp dport { 22 } accept",
                "ip saddr { 192.0.2.7/32 } tcp dport { 9100 } accept",
                "udp dport { 161 } accept",
            ],
        ),
    ],
)
def test_ports_of_the_host_are_accepted_from_their_sources(rules: Rules, expected: list[str]) -> None:
    lines = [line.strip() for line in nftables.render(rules).splitlines()]
    assert [
        line for line in lines if line.endswith("accept") and " dport {" in line and "@" not in line
    ] == expected


def test_declared_sources_have_no_limit_and_all_others_have() -> None:
    assert "counter name ssh_limited drop" in nftables.render(Rules())
    assert "counter name ssh_limited drop" not in nftables.render(Rules(ssh_sources=("192.0.2.7",)))


def test_a_table_is_the_same_whatever_it_has_counted_and_opened() -> None:
    def listing(handle: int, packets: int, elements: list[Any], policy: str = "drop") -> str:
        chain = {"chain": {"name": "input", "handle": handle, "policy": policy}}
        counter = {"counter": {"name": "c", "handle": 2, "packets": packets, "bytes": 1}}
        found = {"set": {"name": "published_tcp", "handle": 3, "elem": elements}}
        return json.dumps({"nftables": [{"metainfo": {"version": handle}}, chain, counter, found]})

    assert nftables.fixed(listing(1, 0, [])) == nftables.fixed(listing(7, 9, [80, 443]))
    assert nftables.fixed(listing(1, 0, [])) != nftables.fixed(listing(1, 0, [], policy="accept"))
    assert nftables.parse(listing(1, 0, [443, {"concat": ["a", "tcp", 1]}])) == {
        "published_tcp": ["443", "a . tcp . 1"]
    }


# --- Confirm or revert


class KilledError(BaseException):
    """The program on the host is gone."""


class Guarded(Host):
    """A host with settings of which it has loaded one; commands and changes of files use ``power``."""

    def __init__(self, base: Path) -> None:
        super().__init__(self.answer, base)
        self.loaded = "nothing"
        self.timer: list[str] = []
        self.refused: set[str] = set()
        self.power = -1

    def tick(self) -> None:
        if self.power == 0:
            raise KilledError
        self.power -= 1

    def answer(self, argv: list[str], **_: Any) -> tuple[int, str, str]:
        self.tick()
        match argv:
            case ["check", file]:
                bad = "bad" in Path(file).read_text()
                return (1, "", "syntax error") if bad else (0, "", "")
            case ["load", file]:
                text = Path(file).read_text()
                if text in self.refused:
                    return 1, "", "the kernel refuses it"
                self.loaded = text
            case ["systemd-run", *rest]:
                assert not self.timer, "systemd refuses a unit that there is"
                assert "--on-active=45" in rest
                self.timer = rest[rest.index("sh") :]
            case ["systemctl", "stop", *_units]:
                self.timer = []
            case _:
                raise AssertionError(argv)
        return 0, "", ""

    def write(self, name: str, content: str | bytes, mode: int = 0o644) -> None:
        self.tick()
        super().write(name, content, mode)

    def fire(self) -> None:
        """Let the time of the timer come: its command is run by a real shell."""
        if self.timer:
            loader = f"load() {{ cat \"$1\" > '{self.path('/loaded')}'; }}; "
            script = self.timer[2].replace("exec load", "load")
            done = subprocess.run(["sh", "-c", loader + script], capture_output=True, text=True, check=False)
            self.timer = []
            if done.returncode == 0:
                self.loaded = self.path("/loaded").read_text()

    def boot(self) -> None:
        self.timer = []
        self.loaded = self.read(GUARD.proven) or "nothing"


GUARD = guard.Guard("test", ".conf", ("check",), ("load",), "nothing")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guarded:
    """A host that has an old setting, proven."""
    monkeypatch.setattr("os.fsync", lambda _handle: None)
    made = Guarded(tmp_path)
    guard.attempt(made, GUARD, "old", 45)
    guard.confirm(made, GUARD)
    return made


def test_what_is_confirmed_stays(host: Guarded) -> None:
    guard.attempt(host, GUARD, "new", 45)
    assert host.loaded == "new"
    guard.confirm(host, GUARD)
    host.fire()
    assert host.loaded == "new"
    host.boot()
    assert host.loaded == "new"


def test_what_nobody_confirms_goes_back_by_itself(host: Guarded) -> None:
    guard.attempt(host, GUARD, "new", 45)
    host.fire()
    assert (host.loaded, host.read(GUARD.reverted)) == ("old", "new")
    with pytest.raises(HostError, match="was not confirmed in time, the host has put the old one back"):
        guard.confirm(host, GUARD)
    assert host.read(GUARD.proven) == "old"


def test_the_first_of_all_goes_back_to_nothing(tmp_path: Path) -> None:
    made = Guarded(tmp_path)
    guard.attempt(made, GUARD, "new", 45)
    made.fire()
    assert made.loaded == "nothing"


def test_a_boot_knows_only_what_is_proven(host: Guarded) -> None:
    guard.attempt(host, GUARD, "new", 45)
    host.boot()
    assert host.loaded == "old"
    guard.attempt(host, GUARD, "newer", 45)
    guard.confirm(host, GUARD)
    host.boot()
    assert host.loaded == "newer"


@pytest.mark.parametrize("how", ["checked", "loaded"])
def test_what_is_refused_is_not_tried(host: Guarded, how: str) -> None:
    text = "bad" if how == "checked" else "new"
    host.refused = {"new"}
    with pytest.raises(HostError, match=r"syntax error|the kernel refuses it"):
        guard.attempt(host, GUARD, text, 45)
    assert (host.loaded, host.timer, host.read(GUARD.trial)) == ("old", [], None)


def test_a_trial_that_was_left_ends_before_the_next(host: Guarded) -> None:
    guard.attempt(host, GUARD, "new", 45)
    guard.attempt(host, GUARD, "newer", 45)
    host.fire()
    assert (host.loaded, host.read(GUARD.proven)) == ("old", "old")


def steps(host: Guarded, work: Callable[[], None]) -> int:
    """How many operations ``work`` is made of."""
    host.power = 1000
    work()
    return 1000 - host.power


@pytest.mark.parametrize("left", [False, True], ids=["", "after a trial that was left"])
def test_a_killed_run_leaves_what_is_proven_in_force(host: Guarded, left: bool) -> None:
    def work() -> None:
        guard.attempt(host, GUARD, "new", 45)
        guard.confirm(host, GUARD)

    def again() -> None:
        host.power = -1
        host.boot()
        host.write(GUARD.proven, "old")
        host.delete(GUARD.trial)
        host.loaded = "old"
        if left:
            guard.attempt(host, GUARD, "left", 45)

    again()
    total = steps(host, work)
    assert total > 5
    for step in range(total):
        again()
        host.power = step
        with pytest.raises(KilledError):
            work()
        host.power = -1
        host.fire()
        assert host.loaded == host.read(GUARD.proven), f"after {step} operations"
        # The next run is not in the way of what is left.
        work()
        assert (host.loaded, host.read(GUARD.proven)) == ("new", "new"), f"after {step} operations"


# --- The module


class Firewall(Guarded):
    """A host with nftables as the module sees it; a listing is the text that is loaded."""

    def has(self, program: str) -> bool:
        return program == "nft"

    def answer(self, argv: list[str], data: str | None = None, **more: Any) -> tuple[int, str, str]:
        match argv:
            case ["nft", "--check", "--file", file]:
                return super().answer(["check", file])
            case ["nft", "--file", file]:
                return super().answer(["load", file])
            case ["nft", "--json", "list", "tables"]:
                ours = (
                    []
                    if self.loaded in {"nothing", nftables.GUARD.initial}
                    else [{"family": "inet", "name": "memoryark"}]
                )
                return 0, json.dumps({"nftables": [{"table": one} for one in ours]}), ""
            case ["nft", "--json", "list", "table", "inet", "memoryark"]:
                return 0, json.dumps({"nftables": [{"chain": {"text": self.loaded}}]}), ""
            case ["unshare", "--net", *_]:
                return 0, json.dumps({"nftables": [{"chain": {"text": data}}]}), ""
        return super().answer(argv, **more)


PARAMS: dict[str, Any] = {
    "ssh_ports": [22],
    "ssh_sources": [],
    "openings": [{"port": 9100, "protocol": "tcp", "sources": []}],
    "seconds": 45,
    "confirm": False,
}
CONFIRM = {**PARAMS, "confirm": True}


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Firewall:
    monkeypatch.setattr("os.fsync", lambda _handle: None)
    return Firewall(tmp_path)


def test_rules_are_tried_confirmed_and_then_left_alone(fresh: Firewall) -> None:
    shown = keep(fresh, PARAMS, check=True)
    assert (shown["changed"], shown["pending"], fresh.loaded) == (True, False, "nothing")
    assert "dport { 9100 } accept" in shown["diff"][0]["after"]
    tried = keep(fresh, PARAMS, check=False)
    assert (tried["changed"], tried["pending"]) == (True, True)
    keep(fresh, CONFIRM, check=False)
    assert fresh.loaded == nftables.render(Rules(openings=(Opening(9100),)))
    assert keep(fresh, PARAMS, check=False) == {"changed": False, "pending": False, "diff": []}


@pytest.mark.parametrize("now", ["nothing", "something else"])
def test_rules_that_somebody_changed_are_put_right(fresh: Firewall, now: str) -> None:
    keep(fresh, PARAMS, check=False)
    keep(fresh, CONFIRM, check=False)
    fresh.loaded = now
    assert keep(fresh, PARAMS, check=True)["changed"] is True
    keep(fresh, PARAMS, check=False)
    keep(fresh, CONFIRM, check=False)
    assert keep(fresh, PARAMS, check=False)["changed"] is False


# --- The action


class Controller(action.ActionModule):
    """An action whose connections come through or fail in turn, as ``answers`` say."""

    def __init__(self, *answers: dict[str, Any] | None) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.resets = 0
        self._connection = self

    def reset(self) -> None:
        self.resets += 1

    def _execute_module(self, module_args: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.asked.append(module_args)
        answer = self.answers.pop(0)
        if answer is None:
            raise AnsibleConnectionFailure("timed out")
        return answer


CONFIRMED = {"changed": True, "pending": False}
REVERTED = {"failed": True, "msg": "it was put back"}
WORKING = {"failed": True, "msg": "another deployment is at work on this host; wait until it has ended"}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([CONFIRMED], {}),
        ([None, None, CONFIRMED], {}),
        ([None, REVERTED], {**REVERTED, "busy": False}),
        ([WORKING, WORKING, CONFIRMED], {}),
        ([WORKING, REVERTED], {**REVERTED, "busy": True}),
    ],
)
def test_rules_are_confirmed_by_new_connections(
    answers: list[dict[str, Any] | None], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action, "POLL", 0.0)
    controller = Controller(*answers)
    found = controller._confirm(time.monotonic() + 60, {})
    assert expected.items() <= found.items()
    assert bool(found.get("failed")) is bool(expected)
    assert controller.resets == len(answers)
    assert controller.asked == [{"confirm": True}] * len(answers)


def test_a_host_that_does_not_come_back_is_not_waited_for_for_ever() -> None:
    found = Controller(None, None)._confirm(time.monotonic() - 1, {})
    assert found == {"failed": True, "msg": "timed out"}
