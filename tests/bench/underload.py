"""Releases while visitors come: what fails, how long they wait, and how soon all is well again."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.memoryark.ops.plugins.plugin_utils.merge import merge
from ansible_collections.memoryark.ops.plugins.plugin_utils.quadlet import start_timeout
from memoryark_lab import load
from memoryark_lab.deployment import Run
from memoryark_lab.errors import LabError
from memoryark_lab.progress import Progress

from tests.bench.bed import FOLDER, Bed
from tests.bench.changes import BACKEND, LINE, another_route, changed, service_change
from tests.bench.contest import Result, good

PARTS = ("quiet", "line-service", "nginx", "backend", "bad-release", "rollback")
# LINE counts a webhook as failed after that many seconds.
LINE_SECONDS = 2.0
QUIET_SECONDS = 60.0
# Before and after a release, so that it is seen from beginning to end.
LEAD_SECONDS = 5.0
# The sample bot takes a hundred webhooks a minute, as the real one; the load sends twelve times as many.
OPEN = service_change(LINE, environment={"LINE_WEBHOOK_RATE_LIMIT": "1000000"})
# Never healthy, and known not to be within a time that a benchmark can wait for.
SICK = service_change(
    LINE,
    environment={"BENCH_ROUND": "sick"},
    healthcheck={
        "test": ["CMD", "false"],
        "interval": "5s",
        "timeout": "5s",
        "retries": 1,
        "start_period": "20s",
        "start_interval": "5s",
    },
)


def summary(result: load.Result, run: Run | None = None) -> Result:
    """Return what a load and the release in it came to."""
    return {
        "requests": len(result.records),
        "failed": result.failed,
        "statuses": result.statuses,
        "slow": result.slower_than(LINE_SECONDS),
        "median": result.latency_median,
        "max": result.latency_max,
        "gap": result.gap_seconds,
        "seconds": run.seconds if run else QUIET_SECONDS,
    }


@dataclass
class Releases:
    """Releases one after the other, each a change of the one before it and of nothing else."""

    bed: Bed
    progress: Progress
    standing: Mapping[str, Any] = field(default_factory=lambda: OPEN)

    def none(self, request: load.Request) -> Result:
        """The load alone."""
        with (
            self.progress.step("Load without a release", "1 min"),
            load.running(self.bed.host, request) as result,
        ):
            time.sleep(QUIET_SECONDS)
        return summary(result)

    def under_load(
        self, request: load.Request, change: Mapping[str, Any], name: str
    ) -> tuple[load.Result, Run]:
        """Deploy a change while requests come in; their records are kept under ``name``."""
        wanted = merge(self.standing, change)
        with load.running(self.bed.host, request) as result:
            time.sleep(LEAD_SECONDS)
            run = self.bed.deploy(wanted)
            time.sleep(LEAD_SECONDS)
        result.save(FOLDER / "load" / f"{name}.json")
        if run.code == 0:
            self.standing = wanted
        return result, run

    def repeated(
        self, what: str, request: load.Request, changes: Sequence[Mapping[str, Any]]
    ) -> list[Result]:
        """Deploy ``changes`` under load."""
        found = []
        for number, change in enumerate(changes, start=1):
            with self.progress.step(f"{what} under load, {number} of {len(changes)}", "about 2 min"):
                result, run = self.under_load(request, change, f"{what.replace(' ', '-')}-{number}")
            if good(run, what).changed < 1:
                raise LabError(f"{what}: the change was none")
            found.append(summary(result, run))
        return found

    def sick(self, request: load.Request) -> Result:
        """A bad release under load: it must fail, and the release before it must be back."""
        timeout = start_timeout(self.bed.catalogue(merge(self.standing, SICK)).services[LINE].health)
        with self.progress.step("A release of line-service that never becomes healthy", "about 4 min"):
            result, run = self.under_load(request, SICK, "sick")
        if run.code == 0:
            raise LabError("a release that is never healthy was taken for a good one")
        # From the start of the container that stood in to the proof that all is as before.
        back = self.bed.seconds_since_start(f"memoryark-{LINE}-next")
        return summary(result, run) | {"health_timeout": timeout, "back": back}

    def roll_back(self, number: int) -> Result:
        """Make a release, and time the command that brings the one before it back."""
        with self.progress.step(f"A release to go back from, {number}", "about 2 min"):
            good(self.bed.deploy(merge(self.standing, changed(LINE, f"back-{number}"))), "site.yml")
        with self.progress.step(f"Roll back, {number}", "about 1 min"):
            run = good(self.bed.roll_back(), "the rollback")
        return {"seconds": run.seconds, "back": float(self.bed.last_release()["seconds"])}


def measure(
    bed: Bed, progress: Progress, rounds: int, parts: Collection[str]
) -> Iterator[tuple[str, dict[str, list[Result]]]]:
    """Measure those of ``PARTS`` that are among ``parts``: yield results by part."""
    webhook, api = load.webhook(bed.host.name), load.page(bed.host.name, "/api/health")
    numbers = range(1, rounds + 1)
    releases = Releases(bed, progress)
    ways: dict[str, Callable[[], list[Result]]] = {
        "quiet": lambda: [releases.none(webhook)],
        "line-service": lambda: releases.repeated(LINE, webhook, [changed(LINE, n) for n in numbers]),
        "nginx": lambda: releases.repeated("nginx", webhook, [another_route(n) for n in numbers]),
        "backend": lambda: releases.repeated("backend", api, [changed(BACKEND, n) for n in numbers]),
        "bad-release": lambda: [releases.sick(webhook)],
        "rollback": lambda: [releases.roll_back(n) for n in numbers],
    }
    with progress.step("Let the bot take the load", "about 3 min"):
        good(bed.deploy(OPEN), "site.yml")
    for part in PARTS:
        if part in parts:
            yield part, {"rounds": ways[part]()}
