"""Writes docs/benchmarks.md from results, and from nothing else: what was not measured is not on it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.bench import underload
from tests.bench.changes import KINDS
from tests.bench.figures import Pairs, number, table, verdict

IDLE_GOAL, CHANGE_GOAL, EDGE_GOAL = 5.0, 3.0, 0.9
# Seconds beyond the health check's own time within which a bad release is undone.
BACK_MARGIN = 10.0
NOT_YET = "Not measured yet.\n"

Results = Mapping[str, Any]

_HEAD = """\
# Benchmarks

Written by `make bench` of what it measured ([benchmarks.json](benchmarks.json)); edits are lost with its next
run. It runs on the host that `make demo` makes, and takes about 140 minutes where hosts are emulated. Single
parts: `PYTHONPATH=collections .venv/bin/python -m tests.bench plan`, or `edge`, `runs`, `configuration`,
`restart`, `roll`, `quiet`, `line-service`, `nginx`, `backend`, `bad-release`, `rollback`; the others stay as they
were measured before.
"""

_RUNS = """\

## Against the containers.podman collection

The peer keeps the same things on the same host: packages, settings, networks, directories, volumes, images,
secrets, configuration files and containers, with the same limits, mounts, secrets and health checks. It is
written from the same catalogue ([tests/bench/peer.py](../tests/bench/peer.py) and
[peer.yml](../tests/bench/peer.yml)), one task for each object, with the modules of Ansible and of
[containers.podman](https://github.com/containers/ansible-podman-collections). Its names, addresses, ports
and folders are others, so that both run at the same time. Both have the same inventory and connection,
pipelining, and no gathering of facts.

What the peer does not do, and so needs no time for: check the inventory and the host before it begins, wait
until a container is healthy, put the release before back, keep releases. After its change it has started the
container; after ours the container is healthy, and was watched for five seconds.
"""

_PLAN = """\

## Planning

What the controller computes: read and check the Compose files, render the release, put the secrets' versions
into it, compare it with a host on which every service changed. The catalogue is made up, its services are as
rich as the real ones. Pure Python, no host; processor time, medians of {rounds} rounds on {date}.

"""

_LOAD = """\

## Releases under load

20 requests a second from outside of the host, each over a TLS connection of its own, at a constant rate
whatever the answers do. A latency counts from when the request was due. LINE's requests are webhooks without
events, as LINE tests a bot; LINE takes one for failed that has no answer after two seconds, so good answers that
were later than that are counted too. The sample bot's own limit of a hundred webhooks a minute is lifted for it.

"""

_EDGE = """\

## The proxy

nginx-proxy with the configuration that a deployment renders, against a bare nginx of the same package with the
shortest configuration that does the same: serve a file of 16 KiB without TLS, and pass requests on over TLS. Both
have two workers on one processor, the same upstream and a log; client and upstream have the other processor. The
proxy's limit of requests for one client is raised, or it would refuse them. Connections are kept. Then webhooks of
LINE, one after the other: checked, and passed on unchecked by the same proxy. On the machine itself, no host.

"""


def render(results: Results) -> str:
    """Return the page."""
    return "".join(
        [
            _HEAD,
            _RUNS,
            _runs(results["runs"]) if "runs" in results else f"\n{NOT_YET}",
            _changes({name: results[name] for name in KINDS if name in results}),
            _PLAN.format(**results["plan"]) + _plan(results["plan"])
            if "plan" in results
            else f"\n## Planning\n\n{NOT_YET}",
            _EDGE,
            _edge(results["edge"]) if "edge" in results else NOT_YET,
            _LOAD,
            _load({name: results[name] for name in underload.PARTS if name in results}),
        ]
    )


def _host(host: Results) -> str:
    emulated = " (emulated, without KVM)" if host["virtualisation"] == "qemu" else ""
    return (
        f"\nMeasured on {host['date']} with the project at `{host['commit']}`, on a host with {host['processors']} "
        f"processors and {host['memory']} MiB, {host['virtualisation']}{emulated}; Podman "
        f"{host['podman'].removeprefix('podman version ')}, ansible-core {host['ansible']}, containers.podman "
        f"{host['collection']}.\n"
    )


_PAIRS_HEAD = ["Run", "pairs", "ours, s", "peer, s", "ratio", "goal", "each pair"]


def _pairs_row(title: str, taken: Sequence[Sequence[float]], goal: float) -> list[Any]:
    pairs = Pairs(tuple((first, second) for first, second in taken))
    each = ", ".join(f"{first:.0f} and {second:.0f}" for first, second in taken)
    met = verdict(pairs.ratio >= goal)
    return [title, len(taken), *pairs.medians, number(pairs.ratio), f"{goal:g}, {met}", each]


def _runs(runs: Results) -> str:
    row = _pairs_row("`site.yml`, nothing changed", runs["pairs"], IDLE_GOAL)
    quiet = verdict(runs["changed"][0] == 0 and runs["restarts"] == 0)
    peer = (
        f"The peer's {runs['peer_tasks']} tasks changed nothing in a second run."
        if not runs["peer_changes"]
        else "In a second run of the peer these tasks say that they changed something: "
        + "; ".join(runs["peer_changes"])
        + "."
    )
    return (
        f"\n{table(_PAIRS_HEAD, [row])}\nMedians of runs in pairs, ours and then the peer; the ratio is the median of "
        f"the pairs' ratios. In all runs of ours without a change: {runs['changed'][0]} changed, "
        f"{runs['restarts']} containers restarted (goal 0 and 0, {quiet}). {peer}\n{_host(runs['host'])}"
    )


def _changes(changes: Results) -> str:
    """One table of all that were measured; each on a day and a host of its own."""
    if not changes:
        return f"\nChanges: {NOT_YET}"
    rows = [_pairs_row(KINDS[name].title, result["pairs"], CHANGE_GOAL) for name, result in changes.items()]
    notes = [
        f"- {KINDS[name].title}: {KINDS[name].meaning}. {_host(result['host']).lstrip()}"
        for name, result in changes.items()
    ]
    return f"\n{table(_PAIRS_HEAD, rows)}\n{''.join(notes)}"


def _plan(plan: Results) -> str:
    steps = plan["steps"]
    rows = [
        [
            size,
            *(seconds[step] for step in steps),
            sum(seconds.values()),
            sum(seconds.values()) / int(size) * 1000,
        ]
        for size, seconds in plan["seconds"].items()
    ]
    largest = list(plan["seconds"])[-1]
    total = sum(plan["seconds"][largest].values())
    return (
        table(["Services", *(f"{step}, s" for step in steps), "in all, s", "per service, ms"], rows)
        + f"\n{largest} services in under {plan['goal']:g} s: {verdict(total < plan['goal'])}. Near linear, a "
        f"service at {largest} at most {plan['near_linear']:g} times "
        f"what it is at the smallest: {number(plan['factor'])} times, {verdict(plan['factor'] <= plan['near_linear'])}.\n"
    )


def _edge(edge: Results) -> str:
    titles = {"static": "a file", "proxied": "passed on, TLS", "webhook": "webhook: checked, unchecked"}
    head = ["Requests", "pairs", "ours, 1/s", "other, 1/s", "ratio", "processor: ours, µs", "other, µs"]
    rows, ratios = [], {}
    for key, title in titles.items():
        pairs = edge[key]
        ratios[key] = statistics.median(ours["rate"] / other["rate"] for ours, other in pairs)
        processor = [_middle(pairs, which, "cpu") * 1e6 for which in (0, 1)]
        rates = [_middle(pairs, which, "rate") for which in (0, 1)]
        rows.append([title, len(pairs), *rates, ratios[key], *processor])
    least = min(ratios["static"], ratios["proxied"])
    checked, unchecked = (
        [_middle(edge["webhook"], which, key) * 1e3 for key in ("p50", "p99")] for which in (0, 1)
    )
    return (
        f"{table(head, rows)}\n"
        f"Medians on {edge['date']}; the ratio is the median of the pairs' ratios.\n\n"
        f"- Throughput against the bare nginx: at least {number(least)} (goal {EDGE_GOAL:g}, "
        f"{verdict(least >= EDGE_GOAL)}).\n"
        f"- A webhook is answered in {number(checked[0])} ms, 99 of 100 in {number(checked[1])} ms; unchecked in "
        f"{number(unchecked[0])} ms and {number(unchecked[1])} ms.\n"
    )


def _middle(pairs: Sequence[Sequence[Results]], which: int, key: str) -> float:
    return float(statistics.median(pair[which][key] for pair in pairs))


_LOAD_TITLES = {
    "quiet": "no release, for comparison",
    "line-service": "line-service changed",
    "nginx": "configuration of nginx changed",
    "bad-release": "line-service, a release that never becomes healthy",
    "backend": "backend changed (not without a gap: SQLite has one writer)",
}
_LOAD_HEAD = [
    "Release",
    "rounds",
    "requests",
    "failed",
    "later than 2 s",
    "median, s",
    "max, s",
    "longest gap, s",
]


def _load(load: Results) -> str:
    """What came of those that were measured."""
    if not load:
        return NOT_YET
    rounds = {name: result["rounds"] for name, result in load.items()}
    rows = [_load_row(title, rounds[name]) for name, title in _LOAD_TITLES.items() if name in rounds]
    days: dict[str, list[str]] = {}
    for name, result in load.items():
        days.setdefault(_host(result["host"]).strip(), []).append(name)
    said = [*_load_words(rounds), *(f"{', '.join(names)}: {day}" for day, names in days.items())]
    return f"{table(_LOAD_HEAD, rows)}\n" + "".join(f"- {words}\n" for words in said)


def _load_words(rounds: Results) -> Iterator[str]:
    without_gap = [name for name in ("line-service", "nginx", "bad-release") if name in rounds]
    if without_gap:
        failed = sum(one["failed"] for name in without_gap for one in rounds[name])
        yield f"Failed requests in {', '.join(without_gap)}: {failed} (goal 0, {verdict(failed == 0)})."
    for bad in rounds.get("bad-release", ()):
        limit = bad["health_timeout"] + BACK_MARGIN
        yield (
            f"The bad release was undone, and the one before it proven healthy, {number(bad['back'])} s after its "
            f"container was started (goal {limit:g} s: the {bad['health_timeout']:g} s that systemd gives it to "
            f"become healthy and {BACK_MARGIN:g} s; {verdict(bad['back'] <= limit)})."
        )
    if "backend" in rounds:
        codes = ", ".join(f"{count} of {code}" for code, count in _total(rounds["backend"]).items())
        yield f"What the proxy answered while the backend changed: {codes}."
    if "rollback" in rounds:
        yield (
            f"`playbooks/rollback.yml`: {_median(rounds['rollback'], 'seconds')} s from the command to its end, all "
            f"healthy; {_median(rounds['rollback'], 'back')} s of it on the host (median of {len(rounds['rollback'])})."
        )


def _load_row(title: str, rounds: Sequence[Results]) -> list[object]:
    """One line: sums of requests, the median of medians, the worst of the rest."""
    return [
        title,
        len(rounds),
        *(sum(one[key] for one in rounds) for key in ("requests", "failed", "slow")),
        float(statistics.median(one["median"] for one in rounds)),
        float(max(one["max"] for one in rounds)),
        float(max(one["gap"] for one in rounds)),
    ]


def _total(rounds: Sequence[Results]) -> dict[str, int]:
    codes = sorted({code for one in rounds for code in one["statuses"]})
    return {code: sum(one["statuses"].get(code, 0) for one in rounds) for code in codes}


def _median(rounds: Sequence[Results], key: str) -> str:
    return number(statistics.median(one[key] for one in rounds))
