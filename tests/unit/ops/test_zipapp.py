"""A program that is brought to a host is one file, the same as long as the program is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.zipapp import pack

MAIN = "from hello.words import WORD\n\ndef main() -> int:\n    print(WORD)\n    return 3\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "hello"
    folder.mkdir()
    for name, text in {"__init__": "", "__main__": MAIN, "words": "WORD = '你好'\n"}.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def test_it_runs_isolated(package: Path, tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_bytes(pack(package))
    command = [sys.executable, "-I", "-B", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (3, "你好\n")


def test_it_changes_only_with_the_program(package: Path) -> None:
    before = pack(package)
    os.utime(package / "words.py", (1, 1))
    (package / "words.py").chmod(0o755)
    (package / "__pycache__").mkdir()
    assert pack(package) == before
    (package / "words.py").write_text("WORD = 'hello'\n")
    assert pack(package) != before


def test_a_package_without_a_beginning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no __main__\.py"):
        pack(tmp_path)
