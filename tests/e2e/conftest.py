"""One fresh host for the whole story; a test that fails shows the host's own view."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memoryark_lab import deployment, hosts, images, world
from memoryark_lab.errors import LabError
from memoryark_lab.hosts import Host
from memoryark_lab.progress import Progress

# Of ssh itself, when it does not get through.
SSH_FAILED = 255

NAME = "e2e"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--host", help="a host of the lab with the product on it, used as it is: for work on tests"
    )


@pytest.fixture(scope="session")
def virgin(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A Debian 13 host as it comes, with the outside world around it."""
    used = request.config.getoption("--host")
    if used:
        yield hosts.get(used)
        return
    if NAME in hosts.names():
        hosts.down(NAME)
    images.build_all(Progress(1))
    host = hosts.up(NAME, memory_mb=deployment.HOST_MEMORY_MB)
    world.up()
    yield host
    hosts.down(NAME)
    world.down()


@pytest.fixture(scope="session")
def deployed(virgin: Host) -> deployment.Run:
    """The first run of ``site.yml``."""
    return deployment.deploy_or_fail(virgin.name, show=True)


@pytest.fixture
def host(virgin: Host, deployed: deployment.Run) -> Host:
    """The host with the product on it."""
    assert deployed.code == 0
    return virgin


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if call.excinfo is not None and isinstance(host, Host):
        report.sections.append(("the host's services", _services(host)))  # type: ignore[attr-defined]
    return report


def _services(host: Host) -> str:
    """The state of the product's services, or why the host does not tell it and its console's end."""
    status = ["systemctl", "--no-pager", "--lines=15", "status", "memoryark.target", "memoryark-*"]
    try:
        done = host.ssh(status, check=False, timeout=60)
        if done.returncode == SSH_FAILED:
            raise LabError(done.stderr)
        return done.stdout
    except LabError as problem:
        console = host.console.read_text(encoding="utf-8", errors="replace")
        return f"{problem}\nThe end of its console:\n{console[-3000:]}"
