"""The host that the faults happen to. Each run of them leaves a report in docs/faults/."""

from __future__ import annotations

import datetime
from collections.abc import Generator

import pytest
from memoryark_lab import deployment, hosts, stages
from memoryark_lab.hosts import Host
from memoryark_lab.paths import REPO
from two_services import CONVERGE, NAME, SNAPSHOT, listing

REPORTS = REPO / "docs" / "faults"


@pytest.fixture(scope="session")
def before() -> dict[str, set[str]]:
    """What was on the host before two small services were deployed to it, in a first release."""
    stages.stage(NAME, "podman")
    found = listing(hosts.get(NAME))
    deployment.deploy_or_fail(NAME, playbook=CONVERGE, show=True)
    hosts.snapshot(NAME, SNAPSHOT)
    return found


@pytest.fixture
def host(before: dict[str, set[str]]) -> Host:
    """A host with the first release, for each fault anew."""
    assert before, "the listing of a host is empty"
    return hosts.restore(NAME, SNAPSHOT)


_RESULTS: dict[str, str] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # A fault that could not even be prepared has failed, too.
    if call.when == "call" or report.failed:
        name = item.name.removeprefix("test_").replace("_", " ")
        _RESULTS[name] = f"| {name} | {report.outcome} | {call.duration:.0f} s |"
    return report


def pytest_sessionfinish() -> None:
    """Write the day's report. Faults that were tried in several runs of a day are all in it."""
    if not _RESULTS:
        return
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    file = REPORTS / f"{today}.md"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    earlier = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    earlier.pop("Fault", None)
    rows = "\n".join((earlier | _RESULTS).values())
    REPORTS.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"# Faults, {today}\n\nBy `make test-faults`.\n\n| Fault | Result | Time |\n|---|---|---|\n{rows}\n",
        encoding="utf-8",
    )
