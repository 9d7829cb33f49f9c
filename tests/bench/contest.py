"""Ours and the peer in turn: a run that has nothing to do, and a run that has one thing to do."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from ansible_collections.memoryark.ops.plugins.plugin_utils.merge import merge
from memoryark_lab.deployment import Run
from memoryark_lab.errors import LabError
from memoryark_lab.progress import Progress

from tests.bench.bed import Bed
from tests.bench.changes import KINDS, Change
from tests.bench.peer import PREFIX

_TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(?P<title>.*)\] \*+$|^(?P<changed>changed): \[", re.M)

Result = dict[str, Any]


def changed_tasks(output: str) -> list[str]:
    """Return the titles of the tasks that changed something, out of a playbook's output."""
    title, found = "", []
    for match in _TASK.finditer(output):
        if match["changed"]:
            found.append(title)
        else:
            title = match["title"]
    return found


def good(run: Run, what: str) -> Run:
    """Return a run that came to its end; raises LabError with the end of its output for another."""
    if run.code != 0:
        raise LabError(f"{what} failed with code {run.code}:\n" + "\n".join(run.output.splitlines()[-40:]))
    return run


def prepare(bed: Bed, progress: Progress) -> Result:
    """Deploy both, so that neither has anything left to do; tell what the peer changes once more."""
    with progress.step("Deploy ours", "about 1 min"):
        good(bed.deploy(), "site.yml")
    with progress.step("Deploy the peer", "about 10 min"):
        good(bed.deploy_peer(), "the peer")
    with progress.step("Deploy the peer again, which should change nothing", "about 6 min"):
        again = good(bed.deploy_peer(), "the peer")
    running = [name for name in bed.containers() if name.startswith(PREFIX)]
    if len(running) != len(bed.catalogue().services):
        raise LabError(f"of the peer's containers only {', '.join(running) or 'none'} run")
    return {"peer_changes": changed_tasks(again.output), "peer_tasks": again.output.count("\nTASK [")}


def _pair(bed: Bed, progress: Progress, name: str, change: Change | None = None) -> tuple[Run, Run]:
    with progress.step(f"{name}: ours", "about 2 min" if change else "about 1 min"):
        ours = good(bed.deploy(change), "site.yml")
    with progress.step(f"{name}: the peer", "about 8 min" if change else "about 5 min"):
        theirs = good(bed.deploy_peer(change), "the peer")
    return ours, theirs


def idle(bed: Bed, progress: Progress, pairs: int) -> Result:
    """Run both without any change, in turn."""
    before = bed.containers()
    taken, changed = [], [0, 0]
    for number in range(1, pairs + 1):
        ours, theirs = _pair(bed, progress, f"No change, pair {number} of {pairs}")
        taken.append((ours.seconds, theirs.seconds))
        changed = [changed[0] + ours.changed, changed[1] + theirs.changed]
    after = bed.containers()
    return {
        "pairs": taken,
        "changed": changed,
        "restarts": sum(
            after.get(name) != start for name, start in before.items() if not name.startswith(PREFIX)
        ),
    }


def changes(bed: Bed, progress: Progress, pairs: int, kinds: Collection[str]) -> Iterator[tuple[str, Result]]:
    """Change one thing of one service by both, in turn, several times for each of ``kinds``: yield results by kind.

    Each run finds what the one before it has left, and one thing more.
    """
    standing: Change = {}
    for name in kinds:
        kind, taken = KINDS[name], []
        for number in range(1, pairs + 1):
            standing = merge(standing, kind.change(number))
            ours, theirs = _pair(bed, progress, f"{kind.title}, pair {number} of {pairs}", standing)
            if ours.changed < 1 or theirs.changed < 1:
                raise LabError(
                    f"there was a change; ours changed {ours.changed} and the peer {theirs.changed}"
                )
            taken.append((ours.seconds, theirs.seconds))
        yield name, {"pairs": taken}
