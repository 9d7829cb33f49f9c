"""``make bench``: measures on the host of ``make demo``, and writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Collection, Iterator
from importlib.metadata import version
from typing import Any

from ansible_collections.memoryark.ops.plugins.plugin_utils import origin
from memoryark_lab import files
from memoryark_lab.errors import LabError
from memoryark_lab.paths import REPO
from memoryark_lab.progress import Progress

from tests.bench import bed as beds
from tests.bench import collection, contest, edge, page, plan, underload
from tests.bench.changes import KINDS

PARTS = ("plan", "edge", "runs", *KINDS, *underload.PARTS)
WITH_PEER = {"runs", *KINDS}
PAIRS = 3
PAGE = REPO / "docs" / "benchmarks.md"
RESULTS = PAGE.with_suffix(".json")


def today() -> str:
    """The date in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def measure_plan(progress: Progress) -> dict[str, Any]:
    """Part 3: no host."""
    with progress.step(f"Plan {', '.join(map(str, plan.SIZES))} services", "about 10 s"):
        growth = plan.measure(say=progress.say)
    return {
        "steps": list(plan.STEPS),
        "rounds": plan.ROUNDS,
        "goal": plan.GOAL_SECONDS,
        "near_linear": plan.NEAR_LINEAR,
        "factor": growth.factor,
        "date": today(),
        "seconds": {str(size): dict(steps) for size, steps in growth.seconds.items()},
    }


def measure_on(
    bed: beds.Bed, progress: Progress, parts: Collection[str], pairs: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the results, by part, of those that need a host."""
    if WITH_PEER & {*parts}:
        yield from measure_with_peer(bed, progress, parts, pairs)
    if {*underload.PARTS} & {*parts}:
        yield from underload.measure(bed, progress, pairs, parts)


def measure_with_peer(
    bed: beds.Bed, progress: Progress, parts: Collection[str], pairs: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the results, by part, of those that are measured in turn with the peer."""
    peer = contest.prepare(bed, progress)
    if "runs" in parts:
        yield "runs", peer | contest.idle(bed, progress, pairs)
    yield from contest.changes(bed, progress, pairs, [kind for kind in KINDS if kind in parts])
    bed.remove_peer()


def about(bed: beds.Bed, commit: str) -> dict[str, str]:
    """What was measured, and on what."""
    return bed.describe() | {
        "date": today(),
        "commit": commit,
        "ansible": version("ansible-core"),
        "collection": collection.version(beds.FOLDER / "collections"),
    }


def steps(parts: list[str], pairs: int) -> tuple[int, float]:
    """How many steps the parts have, and about how many minutes they take on an emulated host."""
    known = {
        "plan": (1, 0.2),
        "edge": (3 * pairs, 3 * pairs * 2 * edge.SECONDS / 60),
        "peer": (3, 12.0),
        "runs": (2 * pairs, 6.0 * pairs),
        **dict.fromkeys(KINDS, (2 * pairs, 7.0 * pairs)),
        "load": (1, 3.0),
        "quiet": (1, 1.0),
        "line-service": (pairs, 3.5 * pairs),
        "nginx": (pairs, 2.5 * pairs),
        "backend": (pairs, 3.0 * pairs),
        "bad-release": (1, 3.0),
        "rollback": (2 * pairs, 4.0 * pairs),
    }
    before = {"peer": WITH_PEER, "load": {*underload.PARTS}}
    wanted = [*parts, *(name for name, needing in before.items() if needing & {*parts})]
    return sum(known[part][0] for part in wanted), sum(known[part][1] for part in wanted)


def keep(results: dict[str, Any], **more: Any) -> None:
    """Write down what is known so far: results as JSON, and the page."""
    results |= more
    files.write(RESULTS, json.dumps(results, indent=1) + "\n")
    files.write(PAGE, page.render(results))


def run(parts: list[str], pairs: int) -> None:
    """Measure ``parts``; results of other parts stay as an earlier run left them."""
    # Before anything is kept: the files of the results are in the working copy.
    commit = origin.version(REPO)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    count, minutes = steps(parts, pairs)
    progress = Progress(count)
    progress.say(f"{', '.join(parts)}: {pairs} pairs, about {max(minutes, 1):.0f} min on an emulated host")
    if "plan" in parts:
        keep(results, plan=measure_plan(progress))
    if "edge" in parts:
        keep(results, edge=edge.measure(progress, pairs) | {"date": today()})
    if set(parts) - {"plan", "edge"}:
        with beds.bed() as bed:
            for part, found in measure_on(bed, progress, parts, pairs):
                keep(results, **{part: found | {"host": about(bed, commit)}})
    print(f"Results: {RESULTS}\nPage: {PAGE}")


def main() -> int:
    """Read the command line; 1 when something is missing that its message names."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["all", *PARTS], default="all", help="what to measure")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"pairs, or rounds, of each ({PAIRS})")
    arguments = parser.parse_args()
    try:
        run(list(PARTS) if "all" in arguments.parts else arguments.parts, arguments.pairs)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
