"""The command line of the lab.

Every module in ``MODULES`` adds its own subcommands by ``register(subparsers)``; each subcommand
sets the default ``run``, a function from the parsed arguments to the exit code.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from memoryark_lab.errors import LabError

MODULES = (
    "memoryark_lab.host_commands",
    "memoryark_lab.images",
    "memoryark_lab.registry",
    "memoryark_lab.stages",
    "memoryark_lab.world",
    "memoryark_lab.demo",
    "memoryark_lab.reference",
)


def parser() -> argparse.ArgumentParser:
    """The parser with the subcommands of all modules."""
    top = argparse.ArgumentParser(prog="lab", description="Disposable Debian 13 hosts for MemoryArk.")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in MODULES:
        importlib.import_module(name).register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is that of the command, 1 for a failure that was explained."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted; `lab status` shows what is there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
