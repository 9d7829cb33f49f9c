"""A server builds an image itself, and no registry is asked for it. On an emulated host that takes ten minutes."""

from __future__ import annotations

import json
from typing import Any

from memoryark_lab.hosts import Host
from memoryark_lab.images import known
from two_services import deploy

# The scenario's own Containerfile makes this program.
QUEUE: dict[str, Any] = {"healthcheck": {"test": ["CMD", "test", "-x", "/usr/local/bin/wait-for-ever"]}}


def test_an_image_is_built_on_the_server(host: Host) -> None:
    settings = {
        "memoryark_images": {"queue": "build", "pages": known()["memoryark-frontend"].reference},
        "memoryark_compose": {"services": {"queue": QUEUE}},
    }
    run = deploy(settings)
    assert run.code == 0, run.output
    container = json.loads(host.ssh(["podman", "inspect", "queue"]).stdout)[0]
    assert container["State"]["Health"]["Status"] == "healthy"
    assert container["ImageName"].startswith("localhost/memoryark/queue:")
    images = json.loads(host.ssh(["podman", "image", "ls", "--format=json"]).stdout)
    built = {name.partition(":")[0] for image in images for name in image.get("Names") or ()}
    assert {"localhost/memoryark-debian", "localhost/memoryark-base"} <= built
    # Or Podman could stop no container after it.
    assert host.ssh(["findmnt", "--noheadings", "--output=PROPAGATION", "/run"]).stdout.strip() == "shared"
    log = host.ssh(["tail", "--lines=1", "/var/log/memoryark/releases.log"]).stdout
    assert "pull" not in json.loads(log)["changes"]
    again = deploy(settings)
    assert (again.code, again.changed) == (0, 0), again.output
