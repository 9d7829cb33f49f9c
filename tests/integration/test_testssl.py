"""testssl.sh finds nothing wrong with the proxy's TLS but what testssl-waivers.yml gives a reason for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from memoryark_lab import images
from memoryark_lab.progress import Progress

from tests.integration import proxy_bed
from tests.integration.proxy_bed import PHOTOS, PROXY, seeing

WAIVERS = Path(__file__).with_name("testssl-waivers.yml")
BAD = {"MEDIUM", "HIGH", "CRITICAL", "FATAL"}
# All that rates the server: protocols, ciphers, preferences, certificate, headers, vulnerabilities.
CHECKS = (
    "--protocols",
    "--standard",
    "--fs",
    "--server-preference",
    "--server-defaults",
    "--headers",
    "--vulnerable",
)
# Some of what each of these finds; a report without them is of a run that broke off.
SOME = {"TLS1_2", "TLS1_3", "cert_chain_of_trust", "HSTS_time", "RC4"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What testssl.sh found, by its names."""
    place = tmp_path_factory.mktemp("testssl")
    with (
        images.root_of("nginx-proxy", Progress(total=1)) as root,
        proxy_bed.running(root, place, "0" * 32),
    ):
        options = ["--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "--ip", PROXY[0]]
        options += ["--add-ca", str(place / "ca" / "ca.pem")]
        options += ["--jsonfile", str(place / "found.json")]
        # No name server is reached from here. One that refuses at once saves minutes of waiting for it.
        (place / "resolv.conf").write_text("nameserver 127.0.0.1\n", encoding="utf-8")
        testssl = ["testssl", *options, *CHECKS, f"{PHOTOS}:8443"]
        command = seeing(place / "resolv.conf", "/etc/resolv.conf", testssl)
        # Its exit code counts what it would have done better itself.
        subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, timeout=900, check=False)
    found = json.loads((place / "found.json").read_text(encoding="utf-8"))
    return {one["id"]: one for one in found}


def test_it_looked_at_everything(report: dict[str, dict[str, str]]) -> None:
    assert SOME - set(report) == set()
    assert report["TLS1_3"]["severity"] == "OK"


def test_nothing_is_bad_but_what_is_waived(report: dict[str, dict[str, str]]) -> None:
    waivers = yaml.safe_load(WAIVERS.read_text(encoding="utf-8"))
    assert all(reason.strip() for reason in waivers.values())
    bad = {name: one["finding"] for name, one in report.items() if one["severity"] in BAD}
    assert {name: finding for name, finding in bad.items() if name not in waivers} == {}
