"""``lab reference``: writes docs/reference from what the code itself declares."""

from __future__ import annotations

import argparse
import importlib

from memoryark_lab import files
from memoryark_lab.errors import LabError
from memoryark_lab.paths import REPO

DIRECTORY = REPO / "docs" / "reference"


def out_of_date() -> dict[str, str]:
    """The pages that are not as the code has them, as file name to the right text."""
    # Imported here so that the other commands work while somebody is editing the collection.
    made: dict[str, str] = importlib.import_module("memoryark_lab.reference_pages").pages()
    return {name: text for name, text in made.items() if _present(name) != text}


def _present(name: str) -> str | None:
    path = DIRECTORY / name
    return path.read_text(encoding="utf-8") if path.exists() else None


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``reference`` to the lab's command line."""
    parser = subparsers.add_parser("reference", help="write docs/reference from the code")
    parser.add_argument("--check", action="store_true", help="only tell whether it is up to date")

    def run(arguments: argparse.Namespace) -> int:
        old = out_of_date()
        if arguments.check and old:
            raise LabError(f"out of date: {', '.join(sorted(old))}; run `.venv/bin/lab reference`")
        for name, text in old.items():
            files.write(DIRECTORY / name, text)
            print(f"docs/reference/{name} written")
        return 0

    parser.set_defaults(run=run)
