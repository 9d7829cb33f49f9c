"""The subcommands of ``lab`` that are about hosts and their network, as data."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from memoryark_lab import base_image, hosts, network, registry, ssh
from memoryark_lab.errors import LabError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

Argument = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Command:
    """One subcommand: what it does, and the arguments as ``add_argument`` takes them."""

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    arguments: Sequence[Argument] = field(default_factory=tuple)


def _up(arguments: argparse.Namespace) -> int:
    host = hosts.up(arguments.name, arguments.memory, arguments.cpus, arguments.disk)
    print(f"{host.name} is running: lab ssh {host.name}; from outside {host.address} and {host.address6}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    if arguments.all:
        hosts.down_all(arguments.keep_disk)
        registry.down()
    elif arguments.name:
        hosts.down(arguments.name, arguments.keep_disk)
    else:
        raise LabError(f"name a host or say --all; there are: {', '.join(hosts.names()) or 'none'}")
    return 0


def _ssh(arguments: argparse.Namespace) -> int:
    host = hosts.get(arguments.name)
    alias = ssh.outside_alias(host.name) if network.is_outside() else host.name
    _become(ssh.argv(alias, arguments.command))


def _status(arguments: argparse.Namespace) -> int:
    found = [host.describe() for host in hosts.all_hosts()]
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print(render_status(found))
    return 0


def render_status(found: Sequence[Mapping[str, Any]]) -> str:
    """The hosts as a table for people."""
    if not found:
        return "no hosts; make one with `lab up NAME`"
    head = ("NAME", "STATE", "OUTSIDE ADDRESSES", "SSH", "SNAPSHOTS")
    rows = [
        head,
        *(
            (
                one["name"],
                one["state"],
                f"{one['address']} {one['address6']}",
                f"{one['ssh']['host']}:{one['ssh']['port']}",
                " ".join(one["snapshots"]) or "-",
            )
            for one in found
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _snapshot(arguments: argparse.Namespace) -> int:
    hosts.snapshot(arguments.name, arguments.tag)
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    hosts.restore(arguments.name, arguments.tag)
    return 0


def _has_snapshot(arguments: argparse.Namespace) -> int:
    return 0 if hosts.has_snapshot(arguments.name, arguments.tag) else 1


def _cut_power(arguments: argparse.Namespace) -> int:
    hosts.cut_power(arguments.name)
    return 0


def _reboot(arguments: argparse.Namespace) -> int:
    hosts.reboot(arguments.name)
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    host = hosts.get(arguments.name)
    if not host.console.exists():
        raise LabError(f"{host.name} has not written anything to its console yet")
    _become(["tail", "--lines=+1", *(["--follow=name"] if arguments.follow else []), str(host.console)])


def _outside(arguments: argparse.Namespace) -> int:
    _become(network.outside(arguments.command))


def _become(argv: Sequence[str]) -> NoReturn:
    """Turn into another program, so that its input, output and exit code are those of the lab."""
    sys.stdout.flush()
    try:
        os.execvp(argv[0], list(argv))  # noqa: S606 - there is no shell on purpose
    except OSError as error:
        raise LabError(f"{argv[0]} cannot be run: {error.strerror}") from None


_NAME: Argument = ("name", {"help": "the host", "metavar": "NAME"})
_TAG: Argument = ("tag", {"help": "the snapshot", "metavar": "TAG"})

COMMANDS = (
    Command(
        "up",
        "make a host, or boot it again, and wait until it has booted",
        _up,
        (
            _NAME,
            ("--memory", {"type": int, "default": 2048, "metavar": "MB", "help": "MiB, for a new host"}),
            ("--cpus", {"type": int, "default": 2, "metavar": "N", "help": "processors, for a new host"}),
            (
                "--disk",
                {"type": int, "default": base_image.SIZE_GB, "metavar": "GB", "help": "GiB, for a new host"},
            ),
        ),
    ),
    Command(
        "down",
        "stop hosts and remove them",
        _down,
        (
            ("name", {"help": "the host", "metavar": "NAME", "nargs": "?"}),
            ("--all", {"action": "store_true", "help": "all hosts, the lab's network and its registry"}),
            ("--keep-disk", {"action": "store_true", "help": "shut down properly and keep the host"}),
        ),
    ),
    Command(
        "ssh",
        "run a command on a host as root, or a shell",
        _ssh,
        (_NAME, ("command", {"nargs": "*", "metavar": "-- CMD", "help": "as with ssh"})),
    ),
    Command(
        "status",
        "show all hosts",
        _status,
        (("--json", {"action": "store_true", "help": "for programs"}),),
    ),
    Command("snapshot", "freeze disk and memory of a running host", _snapshot, (_NAME, _TAG)),
    Command("restore", "bring a host back to a snapshot", _restore, (_NAME, _TAG)),
    Command("has-snapshot", "tell by the exit code whether a snapshot exists", _has_snapshot, (_NAME, _TAG)),
    Command("cut-power", "pull the plug of a host and boot it again", _cut_power, (_NAME,)),
    Command("reboot", "let a host reboot and wait for it", _reboot, (_NAME,)),
    Command(
        "logs",
        "show the serial console of a host",
        _logs,
        (_NAME, ("-f", {"dest": "follow", "action": "store_true", "help": "go on showing it"})),
    ),
    Command(
        "outside",
        "run a command in the world outside of the hosts",
        _outside,
        (("command", {"nargs": "+", "metavar": "-- CMD", "help": "with its arguments"}),),
    ),
)


def register(subparsers: Subparsers) -> None:
    """Add the subcommands of this module."""
    for command in COMMANDS:
        parser = subparsers.add_parser(command.name, help=command.help, description=command.help)
        for name, options in command.arguments:
            parser.add_argument(name, **options)
        parser.set_defaults(run=command.run)
