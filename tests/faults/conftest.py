"""The host that the faults happen to. Each run of them leaves a report in docs/faults/."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

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


_RESULTS: list[tuple[str, str, float]] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        _RESULTS.append((item.name, report.outcome, call.duration))  # type: ignore[attr-defined]
    return report


def pytest_sessionfinish() -> None:
    if not _RESULTS:
        return
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = "".join(
        f"| {name.removeprefix('test_').replace('_', ' ')} | {outcome} | {seconds:.0f} s |\n"
        for name, outcome, seconds in _RESULTS
    )
    REPORTS.mkdir(parents=True, exist_ok=True)
    text = f"# Faults, {today}\n\nBy `make test-faults`.\n\n| Fault | Result | Time |\n|---|---|---|\n{rows}"
    (REPORTS / f"{today}.md").write_text(text, encoding="utf-8")
