"""What the tests of networks share."""

from __future__ import annotations

import pytest
from memoryark_lab.images import known
from testinfra.host import Host


@pytest.fixture(scope="module")
def image(host: Host) -> str:
    """The image of a server of Redis, on the host."""
    reference = known()["redis"].reference
    host.check_output(f"podman pull --quiet {reference}")
    return reference
