"""The lab's archives are those of the control machine."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from memoryark_lab.debian import own_mounts, sources_of
from memoryark_lab.errors import LabError
from memoryark_lab.network import may_unshare_directly

OTHERS = "https://tools.test/apt bookworm\n"
MAIN = "http://mirror.test/debian/ bookworm\nhttp://mirror.test/debian/ bookworm-updates\n"
SECURITY = "http://safe.test/debian-security/ bookworm-security\n"


@pytest.mark.parametrize(
    "indexes", [MAIN + SECURITY, OTHERS + MAIN + SECURITY, SECURITY + MAIN + MAIN + OTHERS]
)
def test_sources_follow_the_control_machine(indexes: str) -> None:
    assert sources_of(indexes) == (
        "deb http://mirror.test/debian trixie main",
        "deb http://mirror.test/debian trixie-updates main",
        "deb http://safe.test/debian-security trixie-security main",
    )


@pytest.mark.parametrize(
    ("indexes", "missing"),
    [
        ("", "updates suite and security suite"),
        (MAIN, "security suite"),
        (OTHERS + SECURITY, "updates suite"),
    ],
)
def test_a_missing_archive_is_named(indexes: str, missing: str) -> None:
    with pytest.raises(LabError, match=f"lack Debian's {missing}"):
        sources_of(indexes)


def test_what_makes_all_mounts_private_leaves_those_around_it_shared() -> None:
    """As mmdebstrap does it, in a mount namespace that stands for this machine."""
    inside = textwrap.dedent("""\
        import pathlib, subprocess
        from memoryark_lab import debian

        def of_root() -> str:
            lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
            return next(line for line in lines if line.split()[4] == "/")

        assert " shared:" in of_root()
        subprocess.run([*debian.own_mounts(), "mount", "--make-rprivate", "/"], check=True)
        assert " shared:" in of_root()
        """)
    may = may_unshare_directly(Path("/proc/self/status").read_text())
    user = [] if may else ["--user", "--map-root-user"]
    around = ["unshare", *user, "--mount", "--propagation", "shared"]
    done = subprocess.run(
        [*around, sys.executable, "-c", inside], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_another_user_has_no_mounts_to_protect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert own_mounts.__wrapped__() == ()
