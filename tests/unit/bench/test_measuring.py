"""What is done to a host, in which order, and that the page can be written of what comes back."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from memoryark_lab import hosts, load, world
from memoryark_lab.deployment import Run
from memoryark_lab.errors import LabError
from memoryark_lab.load import Record, Request, Result
from memoryark_lab.progress import Progress

from tests.bench import __main__ as bench
from tests.bench import collection, contest, page, underload


class Bed:
    """A host that does as it is told and takes as long as it is told."""

    def __init__(self) -> None:
        self.host = SimpleNamespace(name="demo", address="192.0.2.10")
        self.done: list[str] = []
        self.changes: list[Any] = []
        self.takes_sick_for_good = False
        self.peers = 1
        self.changes_nothing = False

    def remove_peer(self) -> None:
        self.done.append("removed")

    def deploy(self, change: Mapping[str, Any] | None = None) -> Run:
        self.done.append("ours")
        self.changes.append(change)
        sick = "CMD', 'false" in str(change) and not self.takes_sick_for_good
        return Run(1 if sick else 0, int(change is not None and not self.changes_nothing), "", 10.0)

    def deploy_peer(self, change: Mapping[str, Any] | None = None) -> Run:
        self.done.append("peer")
        return Run(0, int(change is not None), "\nTASK [Keep a] ****\nok: [demo]\n", 60.0)

    def roll_back(self) -> Run:
        self.done.append("rollback")
        return Run(0, 1, "", 20.0)

    def containers(self) -> dict[str, str]:
        return {"app": "1", **{f"peer-{number}": "1" for number in range(self.peers)}}

    def catalogue(self, change: Mapping[str, Any] | None = None) -> Any:
        health = SimpleNamespace(start_period=20.0, retries=1, interval=5.0, timeout=5.0)
        return SimpleNamespace(services={"line-service": SimpleNamespace(health=health)})

    def last_release(self) -> dict[str, Any]:
        return {"seconds": 12.5}

    def seconds_since_start(self, unit: str) -> float:
        assert unit == "memoryark-line-service-next"
        return 95.0

    def describe(self) -> dict[str, str]:
        return {
            "virtualisation": "kvm",
            "processors": "2",
            "memory": "3000",
            "podman": "podman version 5.4.2",
        }


@pytest.fixture
def bed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    @contextmanager
    def running(host: object, request: Request) -> Iterator[Result]:
        result = Result()
        yield result
        result.records.append(Record(0.0, 0.1, 200))

    monkeypatch.setattr(load, "running", running)
    monkeypatch.setattr(underload, "FOLDER", tmp_path)
    monkeypatch.setattr(collection, "version", lambda folder: "1.18.0")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(world, "facts", lambda: {"secrets": {"line_channel_secret": "0" * 32}})
    return Bed()


@pytest.fixture
def progress() -> Progress:
    return Progress(0, io.StringIO())


def test_runs_are_taken_in_pairs(bed: Any, progress: Progress) -> None:
    found = dict(bench.measure_with_peer(bed, progress, ["runs"], 2))
    # Once ours and twice the peer, so that neither has anything left to do; then in turn.
    assert bed.done == ["ours", "peer", "peer", *["ours", "peer"] * 2, "removed"]
    assert found == {
        "runs": {
            "peer_changes": [],
            "peer_tasks": 1,
            "pairs": [(10.0, 60.0)] * 2,
            "changed": [0, 0],
            "restarts": 0,
        }
    }
    assert "nothing changed | 2 | 10.0 | 60.0 | 6.00 | 5, met |" in page.render(
        {"runs": found["runs"] | {"host": bench.about(bed, "abc")}}
    )
    assert len(progress.taken) == bench.steps(["runs"], 2)[0]


def test_each_run_with_a_change_finds_one_thing_more_than_the_one_before(
    bed: Any, progress: Progress
) -> None:
    kinds = ["configuration", "restart", "roll"]
    found = dict(bench.measure_with_peer(bed, progress, kinds, 2))
    assert found == {kind: {"pairs": [(10.0, 60.0)] * 2} for kind in kinds}
    assert bed.done == ["ours", "peer", "peer", *["ours", "peer"] * 6, "removed"]
    changes = bed.changes[1:]
    services = [set(_differences(*pair)) for pair in zip([{"services": {}}, *changes], changes, strict=False)]
    pages, prometheus = {"memoryark-frontend"}, {"prometheus"}
    assert services == [pages, pages, prometheus, prometheus, pages, pages]
    assert "pages changed, without a gap | 2 | 10.0 | 60.0 | 6.00 | 3, met |" in page.render(
        {"roll": found["roll"] | {"host": bench.about(bed, "abc")}}
    )
    assert len(progress.taken) == bench.steps(kinds, 2)[0]


def test_one_kind_of_change_can_be_measured_alone(bed: Any, progress: Progress) -> None:
    assert list(dict(bench.measure_with_peer(bed, progress, ["restart"], 1))) == ["restart"]
    assert bed.done == ["ours", "peer", "peer", "ours", "peer", "removed"]


def test_a_change_that_is_none_is_no_measurement(bed: Any, progress: Progress) -> None:
    bed.changes_nothing = True
    with pytest.raises(LabError, match="ours changed 0"):
        list(contest.changes(bed, progress, 1, ["restart"]))


def test_a_peer_that_does_not_run_is_no_peer(bed: Any, progress: Progress) -> None:
    bed.peers = 0
    with pytest.raises(LabError, match="only none run"):
        contest.prepare(bed, progress)


def test_a_release_under_load_changes_what_it_is_about_and_nothing_else(bed: Any, progress: Progress) -> None:
    found = dict(underload.measure(bed, progress, 2, underload.PARTS))
    services = [set(_differences(*pair)) for pair in zip(bed.changes, bed.changes[1:], strict=False)]
    line, pages, backend = {"line-service"}, {"memoryark-frontend"}, {"memoryark-backend"}
    # Back to the release before the sick one is what the host does by itself.
    assert services == [line, line, pages, pages, backend, backend, line, line, line]
    assert bed.done[-4:] == ["ours", "rollback"] * 2
    text = page.render({part: result | {"host": bench.about(bed, "abc")} for part, result in found.items()})
    assert "95.0 s after its container was started (goal 100 s" in text
    assert len(progress.taken) == bench.steps([*underload.PARTS], 2)[0]


def test_one_release_under_load_can_be_measured_alone(bed: Any, progress: Progress) -> None:
    assert list(dict(underload.measure(bed, progress, 2, ["plan", "nginx"]))) == ["nginx"]
    assert len(bed.done) == 3
    assert len(progress.taken) == bench.steps(["nginx"], 2)[0]


def _differences(before: Any, after: Any) -> list[str]:
    first, second = before["services"], after["services"]
    return [name for name in {*first, *second} if first.get(name) != second.get(name)]


def test_a_sick_release_that_passes_is_no_measurement(bed: Any, progress: Progress) -> None:
    bed.takes_sick_for_good = True
    with pytest.raises(LabError, match="taken for a good one"):
        list(underload.measure(bed, progress, 1, ["bad-release"]))


def test_without_a_host_it_says_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hosts, "names", list)
    monkeypatch.setattr(sys, "argv", ["bench", "runs"])
    assert bench.main() == 1
    assert "make it with `make demo`" in capsys.readouterr().err
