"""The page says what was measured, whether goals were met, and nothing of what was not measured."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from tests.bench import page

RELEASE = {
    "requests": 400,
    "failed": 0,
    "statuses": {"200": 400},
    "slow": 3,
    "median": 0.05,
    "max": 1.5,
    "gap": 0.0,
    "seconds": 80.0,
}
FAST = {"rate": 9000.0, "cpu": 0.00005, "p50": 0.0004, "p99": 0.002}
BARE = {**FAST, "rate": 9500.0, "cpu": 0.00004}
GAP = {**RELEASE, "failed": 10, "statuses": {"200": 390, "502": 10}, "gap": 4.25}
HOST = {
    "date": "2026-01-02",
    "commit": "abc",
    "virtualisation": "qemu",
    "processors": "2",
    "memory": "2990",
    "podman": "podman version 5.4.2",
    "ansible": "2.19.1",
    "collection": "1.18.0",
}
RESULTS: dict[str, Any] = {
    "runs": {
        "peer_changes": [],
        "peer_tasks": 52,
        "pairs": [[50.0, 300.0], [52.0, 312.0]],
        "changed": [0, 0],
        "restarts": 0,
        "host": HOST,
    },
    "configuration": {"pairs": [[60.0, 310.0], [61.0, 320.0]], "host": HOST},
    "restart": {"pairs": [[100.0, 310.0], [101.0, 320.0]], "host": {**HOST, "date": "2026-01-03"}},
    "roll": {"pairs": [[90.0, 310.0], [91.0, 320.0]], "host": HOST},
    "plan": {
        "steps": ["load and check", "plan"],
        "rounds": 5,
        "date": "2026-01-02",
        "goal": 2.0,
        "near_linear": 1.5,
        "factor": 1.02,
        "seconds": {"10": {"load and check": 0.1, "plan": 0.01}, "200": {"load and check": 1.1, "plan": 0.2}},
    },
    "edge": {
        "static": [[FAST, BARE]],
        "proxied": [[FAST, BARE]],
        "webhook": [[FAST, BARE]],
        "date": "2026-01-02",
    },
    "quiet": {"rounds": [RELEASE], "host": HOST},
    "line-service": {"rounds": [RELEASE, {**RELEASE, "median": 0.07, "max": 2.5}], "host": HOST},
    "nginx": {"rounds": [RELEASE], "host": {**HOST, "date": "2026-01-04"}},
    "backend": {"rounds": [GAP, {**GAP, "statuses": {"200": 389, "502": 9, "504": 2}}], "host": HOST},
    "bad-release": {"rounds": [{**RELEASE, "health_timeout": 90.0, "back": 95.5}], "host": HOST},
    "rollback": {"rounds": [{"seconds": 60.0, "back": 20.0}, {"seconds": 64.0, "back": 22.0}], "host": HOST},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The results with one of them another."""
    results = copy.deepcopy(RESULTS)
    place: Any = results
    *parents, last = path.split(".")
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    place[last] = value
    return results


def test_without_results_there_are_no_numbers_to_read() -> None:
    text = page.render({})
    assert text.count(page.NOT_YET) == 5
    assert "met" not in re.findall(r"\w+", text)


@pytest.mark.parametrize("part", ["runs", "configuration", "roll", "plan", "edge", "nginx", "rollback"])
def test_each_part_can_be_there_alone(part: str) -> None:
    assert page.render({part: RESULTS[part]}).count(page.NOT_YET) == 4


@pytest.mark.parametrize(
    "line",
    [
        "| `site.yml`, nothing changed | 2 | 51.0 | 306 | 6.00 | 5, met | 50 and 300, 52 and 312 |",
        "| one file of nginx's configuration changed | 2 | 60.5 | 315 | 5.21 | 3, met | 60 and 310, 61 and 320 |",
        "| one variable of Prometheus changed | 2 | 100 | 315 | 3.13 | 3, met | 100 and 310, 101 and 320 |",
        "| 200 | 1.10 | 0.20 | 1.30 | 6.50 |",
        "| line-service changed | 2 | 800 | 0 | 6 | 0.060 | 2.50 | 0.000 |",
        "| a file | 1 | 9000 | 9500 | 0.95 | 50.0 | 40.0 |",
    ],
)
def test_it_has_the_numbers(line: str) -> None:
    assert line in page.render(RESULTS).splitlines()


@pytest.mark.parametrize(
    "words",
    [
        "The peer's 52 tasks changed nothing in a second run.",
        "0 changed, 0 containers restarted (goal 0 and 0, met)",
        "Failed requests in line-service, nginx, bad-release: 0 (goal 0, met)",
        "at least 0.95 (goal 0.9, met)",
        "answered in 0.40 ms, 99 of 100 in 2.00 ms; unchecked in 0.40 ms and 2.00 ms.",
        "95.5 s after its container was started (goal 100 s: the 90 s that systemd gives it to become healthy and 10 s; met)",
        "while the backend changed: 779 of 200, 19 of 502, 2 of 504.",
        "62.0 s from the command to its end, all healthy; 21.0 s of it on the host (median of 2)",
        "- one variable of Prometheus changed: it is made anew. Measured on 2026-01-03 with",
        "- nginx: Measured on 2026-01-04 with",
        "- quiet, line-service, backend, bad-release, rollback: Measured on 2026-01-02 with",
        "2026-01-02 with the project at `abc`, on a host with 2 processors and 2990 MiB, qemu (emulated, without KVM)",
        "Podman 5.4.2, ansible-core 2.19.1, containers.podman 1.18.0.",
    ],
)
def test_it_says_what_came_of_it(words: str) -> None:
    assert words in page.render(RESULTS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("runs.pairs", [[50.0, 249.0], [52.0, 250.0]]),
        ("runs.changed", [1, 0]),
        ("runs.restarts", 1),
        ("restart.pairs", [[100.0, 290.0], [100.0, 290.0]]),
        ("plan.factor", 1.6),
        ("plan.seconds.200.plan", 0.9),
        ("edge.proxied", [[{**FAST, "rate": 8000.0}, BARE]]),
        ("line-service.rounds.1.failed", 1),
        ("nginx.rounds.0.failed", 1),
        ("bad-release.rounds.0.failed", 1),
        ("bad-release.rounds.0.back", 100.1),
    ],
)
def test_a_goal_that_is_missed_is_called_so(path: str, value: Any) -> None:
    assert page.render(RESULTS).count("**missed**") == 0
    assert page.render(changed(path, value)).count("**missed**") == 1


def test_a_peer_that_is_never_done_is_named() -> None:
    results = changed("runs.peer_changes", ["Keep the image of redis"])
    assert "tasks say that they changed something: Keep the image of redis." in page.render(results)
