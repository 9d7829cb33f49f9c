"""``lab stage``: puts a host to a state that tests start from.

A stage is a snapshot. Each is made from the one before it, on first use, and kept with the host.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from memoryark_lab import deployment, hosts, images, world
from memoryark_lab.errors import LabError
from memoryark_lab.progress import Progress


@dataclass(frozen=True)
class Stage:
    """A state with the one it is made from; ``make`` turns the host into it."""

    before: str
    make: Callable[[str], None]


def _fresh(name: str) -> None:
    hosts.up(name, memory_mb=deployment.HOST_MEMORY_MB)


def _podman(name: str) -> None:
    deployment.deploy_or_fail(name, playbook="lab/stages/podman.yml")


def _product(name: str) -> None:
    deployment.deploy_or_fail(name)


STAGES = {
    "fresh": Stage("", _fresh),
    "podman": Stage("fresh", _podman),
    "product": Stage("podman", _product),
}


def stage(name: str, wanted: str) -> None:
    """Bring host ``name`` to the stage ``wanted``; raises LabError."""
    if wanted not in STAGES:
        raise LabError(f"there is no stage {wanted}; there are {', '.join(STAGES)}")
    images.build_all(Progress(1))
    if name in hosts.names() and hosts.has_snapshot(name, wanted):
        hosts.restore(name, wanted)
        world.up()
        return
    here = STAGES[wanted]
    if here.before:
        stage(name, here.before)
    here.make(name)
    world.up()
    hosts.snapshot(name, wanted)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``stage`` to the lab's command line."""
    parser = subparsers.add_parser("stage", help="bring a host to a state that tests start from")
    parser.add_argument("name", metavar="NAME", help="the host")
    parser.add_argument("stage", metavar="STAGE", choices=sorted(STAGES), help=", ".join(STAGES))

    def run(arguments: argparse.Namespace) -> int:
        stage(arguments.name, arguments.stage)
        return 0

    parser.set_defaults(run=run)
