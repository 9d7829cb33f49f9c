"""A service gets its image from an archive and by a tag; a second run changes nothing.

A build takes ten minutes on an emulated host: tests/faults has it.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memoryark_lab import deployment, registry
from memoryark_lab.images import known
from memoryark_lab.paths import REPO
from testinfra.host import Host

sys.path.append(str(REPO / "tests/unit/ops"))
from archives import MANIFEST, NAME, blob_path, described, digest, write_archive

CONVERGE = "molecule/containers/converge.yml"
TAG = "molecule"


def deploy(image: str, *options: str, **queue: Any) -> deployment.Run:
    """Deploy the scenario's two services with this image for ``queue``, changed by these Compose keys."""
    images = {"queue": image, "pages": known()["memoryark-frontend"].reference}
    settings = {"memoryark_images": images, "memoryark_compose": {"services": {"queue": queue}}}
    return deployment.deploy("molecule", "--extra-vars", json.dumps(settings), *options, playbook=CONVERGE)


def deploy_twice(image: str, **queue: Any) -> None:
    first = deploy(image, **queue)
    assert first.code == 0, first.output
    assert first.changed > 0, first.output
    second = deploy(image, **queue)
    assert (second.code, second.changed) == (0, 0), second.output


@pytest.fixture(scope="module", autouse=True)
def _as_before() -> Iterator[None]:
    """What comes after starts from the scenario's own images."""
    yield
    run = deployment.deploy("molecule", playbook=CONVERGE)
    assert run.code == 0, run.output


def runs(host: Host) -> str:
    """The name of the image on which ``queue`` runs and is healthy."""
    found = json.loads(host.check_output("podman inspect queue"))[0]
    assert found["State"]["Health"]["Status"] == "healthy"
    return str(found["ImageName"])


def names(host: Host) -> set[str]:
    """All names of images on the host."""
    images = json.loads(host.check_output("podman image ls --format=json"))
    return {name for image in images for name in image.get("Names") or ()}


def at_registry(path: str, content: bytes | None = None) -> bytes:
    """Get something of the lab's redis from the lab's registry, or put a manifest there."""
    server = registry.status()
    assert server is not None
    headers = {"Accept": MANIFEST, "Content-Type": MANIFEST}
    method = "GET" if content is None else "PUT"
    url = f"{server.url}/v2/memoryark/redis/{path}"
    request = urllib.request.Request(url, content, headers, method=method)  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        body: bytes = answer.read()
    return body


def redis_manifest() -> bytes:
    return at_registry(f"manifests/{known()['redis'].digest}")


def test_from_an_archive(host: Host, tmp_path: Path) -> None:
    manifest = redis_manifest()
    parts = json.loads(manifest)
    blobs = [at_registry(f"blobs/{part['digest']}") for part in (parts["config"], *parts["layers"])]
    # A name that it must not take from another image on the host.
    index = {"manifests": [{**described(manifest, MANIFEST), "annotations": {NAME: "localhost/stranger:1"}}]}
    files = {"index.json": json.dumps(index).encode(), "oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    files |= {blob_path(digest(content)): content for content in (manifest, *blobs)}
    write_archive(tmp_path / "queue.tar", files)
    # A changed variable restarts it even if what ran before was the same image.
    deploy_twice(f"oci-archive:{tmp_path / 'queue.tar'}", environment={"FROM": "archive"})
    assert runs(host) == f"localhost/memoryark/queue@{digest(manifest)}"
    assert "localhost/stranger:1" not in names(host)
    left = "find /var/tmp /root/.ansible/tmp -name 'memoryark-*' -o -name 'image-*.tar'"
    assert host.check_output(left) == ""


def test_by_a_tag_that_moves(host: Host) -> None:
    server = registry.status()
    assert server is not None
    first = redis_manifest()
    at_registry(f"manifests/{TAG}", first)
    reference = f"{server.guest_address}/memoryark/redis:{TAG}"
    pinned = f"{server.guest_address}/memoryark/redis@"
    deploy_twice(reference, environment={"FROM": "tag"})
    assert runs(host) == pinned + digest(first)

    # The same image with a note is another manifest, and so another digest.
    second = json.dumps({**json.loads(first), "annotations": {"moved": "yes"}}).encode()
    at_registry(f"manifests/{TAG}", second)
    again = deploy(reference, environment={"FROM": "tag"})
    assert (again.code, again.changed) == (0, 0), again.output
    updated = deploy(reference, "--extra-vars", "memoryark_update_tags=true", environment={"FROM": "tag"})
    assert updated.code == 0, updated.output
    assert digest(second) in updated.output
    assert runs(host) == pinned + digest(second)
