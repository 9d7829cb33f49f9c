"""The lab's archives are those of the control machine."""

from __future__ import annotations

import pytest
from memoryark_lab.debian import sources_of
from memoryark_lab.errors import LabError

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
