"""A release that fails leaves the one before it, and one that is interrupted is put in order by the next."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from memoryark_lab import deployment
from memoryark_lab.images import known
from testinfra.host import Host

CONVERGE = "molecule/containers/converge.yml"


def deploy(*options: str, **pages: Any) -> deployment.Run:
    """Deploy the scenario's two services, ``pages`` changed by these Compose keys."""
    changes = json.dumps({"memoryark_compose": {"services": {"pages": pages}} if pages else {}})
    return deployment.deploy("molecule", "--extra-vars", changes, *options, playbook=CONVERGE)


def containers(host: Host) -> dict[str, str]:
    """Ids of the containers that run, by name."""
    lines = host.check_output("podman ps --no-trunc --format '{{.Names}} {{.ID}}'").splitlines()
    return dict(line.split() for line in lines)


def service(host: Host) -> list[str]:
    """The unit as systemd has it; Quadlet puts a container's options in another order each time."""
    return sorted(host.check_output("systemctl cat memoryark-pages.service").split())


def test_a_check_run_says_what_would_be_started_again(host: Host) -> None:
    before = containers(host)
    run = deploy("--check", "--diff", environment={"GREETING": "changed"})
    assert run.code == 0, run.output
    assert "+restart memoryark-pages" in run.output
    assert "memoryark-queue" not in run.output
    assert containers(host) == before


def test_only_what_changed_is_started_again(host: Host) -> None:
    before = containers(host)
    run = deploy(environment={"GREETING": "changed"})
    assert run.code == 0, run.output
    after = containers(host)
    assert after["queue"] == before["queue"]
    assert after["pages"] != before["pages"]
    assert host.check_output("podman exec pages sh -c 'echo $GREETING'") == "changed"


def test_a_release_that_fails_is_taken_back_whole(host: Host) -> None:
    before = containers(host)
    unit = service(host)
    run = deploy(environment={"GREETING": "broken"}, command=["-h"])
    assert run.code != 0
    said = " ".join(run.output.split())
    assert "memoryark-pages did not become healthy" in said
    assert "--- last log of memoryark-pages ---" in said
    assert re.search(r"Release \d+ is back and healthy\.", said)
    assert host.check_output("podman exec pages sh -c 'echo $GREETING'") == "changed"
    assert containers(host)["queue"] == before["queue"]
    assert service(host) == unit
    assert host.check_output("podman healthcheck run pages; echo $?") == "0"


def test_an_image_that_cannot_be_fetched_stops_nothing(host: Host) -> None:
    before = containers(host)
    missing = {"queue": known()["redis"].reference, "pages": f"nowhere.invalid/none@sha256:{'0' * 64}"}
    settings = json.dumps({"memoryark_images": missing})
    run = deploy("--extra-vars", settings, environment={"GREETING": "broken"})
    assert run.code != 0
    assert "memoryark_images.pages" in run.output
    assert containers(host) == before


@pytest.mark.usefixtures("host")
def test_after_a_failure_the_same_release_is_still_the_present_one() -> None:
    run = deploy(environment={"GREETING": "changed"})
    assert (run.code, run.changed) == (0, 0), run.output
