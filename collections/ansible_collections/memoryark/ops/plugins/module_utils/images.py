# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How images come to a host: from a registry, from an archive, or built on it.

The name of an image says which. Below ``localhost/memoryark/`` a digest was loaded and a tag was built; every
other image is pulled.
"""

from __future__ import annotations

import base64
import json
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils.debian import (
    LIST_INDEXES,
    debootstrap_command,
    sources_of,
)
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError, make_directory

OWN = "localhost/memoryark/"
DEBIAN = "localhost/memoryark-debian"
BASE = "localhost/memoryark-base"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# Which digest each tag of the inventory stands for, as of the last release that was committed.
TAGS = "/var/lib/memoryark/tags.json"
# /tmp is memory on Debian 13.
_WORK = "/var/tmp"  # noqa: S108
_APT = ("apt-get", "--quiet", "--option=DPkg::Lock::Timeout=300")


@dataclass(frozen=True)
class Sources:
    """Where images come from that no registry has.

    ``archives`` are paths on the host by reference. ``recipes`` say how to build an image, by its name: the
    image that it stands on (``base``, none for Debian itself), the build argument that names that one, more
    arguments, the Containerfile, and all files of the context.
    """

    archives: Mapping[str, str] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def way(reference: str) -> str:
    """Return how an image comes to a host: ``pull``, ``load`` or ``build``."""
    if not reference.startswith(OWN):
        return "pull"
    return "load" if "@" in reference else "build"


def stored_name(reference: str) -> str:
    """Return the name by which Podman keeps and removes an image; it lets nobody give one a digest's name."""
    return reference.replace("@sha256:", ":") if way(reference) == "load" else reference


def fetch(host: Host, missing: Sequence[str], sources: Sources) -> None:
    """Bring the images that are ``missing`` to the host; raises HostError."""
    ways: dict[str, list[str]] = {"pull": [], "load": [], "build": []}
    for reference in missing:
        ways[way(reference)].append(reference)
    pull(host, ways["pull"])
    for reference in ways["load"]:
        load(host, reference, sources.archives.get(reference, ""))
    for reference in ways["build"]:
        build(host, reference, sources.recipes)
    if ways["build"]:
        remove_foundations(host, sources.recipes)


def pull(host: Host, references: Sequence[str]) -> None:
    """Fetch images from their registries; Podman checks their digests."""

    def one(reference: str) -> None:
        host.run(["podman", "pull", "--quiet", reference])

    # The first brings the layers that the others share. To unpack one keeps one processor busy.
    for reference in references[:1]:
        one(reference)
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(one, references[1:]))


def load(host: Host, reference: str, archive: str) -> None:
    """Load an image from the copy of an OCI archive, and delete the copy; raises HostError."""
    copy = host.path(archive)
    if not archive or not copy.is_file():
        raise HostError(f"no archive was sent to the host for {reference}; deploy with site.yml")
    with work_directory(host) as layout:
        unpack(copy, layout, reference)
        copy.unlink()
        image = host.run(["podman", "pull", "--quiet", f"oci:{layout}"]).split()[-1]
    host.run(["podman", "tag", image, stored_name(reference)])
    if reference not in host.images():
        host.try_run(["podman", "image", "rm", stored_name(reference)])
        raise another_image(reference)


def unpack(archive: Path, layout: Path, reference: str) -> None:
    """Unpack an OCI archive and leave its image without a name: it must not take one from another image."""
    digest = reference.partition("@")[2]
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(layout, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        what = " ".join(str(error).split())
        raise HostError(f"the archive of {reference} cannot be unpacked: {what}") from error
    blob = layout / "blobs" / digest.replace(":", "/")
    if not blob.is_file():
        raise another_image(reference)
    manifest = {"mediaType": OCI_MANIFEST, "digest": digest, "size": blob.stat().st_size}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))


def another_image(reference: str) -> HostError:
    """Return the error for an archive that has not the image for which it was sent."""
    return HostError(f"the archive of {reference} has another image; it was changed since it was checked")


def build(host: Host, image: str, recipes: Mapping[str, Mapping[str, Any]]) -> None:
    """Build an image, and what it stands on if that is missing; raises HostError."""
    recipe = recipes.get(image)
    if recipe is None:
        raise HostError(f"nothing says how to build {image}; deploy with site.yml")
    base = recipe["base"]
    if not base:
        bootstrap(host, image)
        return
    if base not in host.images():
        build(host, base, recipes)
    arguments = {**recipe["arguments"], recipe["base_argument"]: base}
    with work_directory(host) as context:
        write_context(context, recipe["context"])
        host.run(
            [
                *("podman", "build", "--quiet", "--pull=never", "--format=oci"),
                # Packages come over the host's own network. Layers in between would outlive every release.
                *("--network=host", "--layers=false", "--force-rm"),
                *(f"--build-arg={name}={value}" for name, value in sorted(arguments.items())),
                *(f"--tag={image}", f"--file={context / recipe['containerfile']}", str(context)),
            ]
        )


def bootstrap(host: Host, image: str) -> None:
    """Make the Debian that all built images stand on, from the archives that the host's apt uses."""
    if not host.has("mmdebstrap"):
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        host.run([*_APT, "update"], env=environment)
        host.run([*_APT, "install", "--yes", "--no-install-recommends", "mmdebstrap"], env=environment)
    try:
        sources = sources_of(host.run(LIST_INDEXES))
    except ValueError as error:
        raise HostError(str(error)) from error
    with work_directory(host) as work:
        root = str(work / "root.tar")
        # mmdebstrap makes every mount around it private. On those of the host Podman would end no network
        # namespace any more: it has each mounted twice, and counts on the second to go with the first.
        host.run(["unshare", "--mount", *debootstrap_command(root, *sources)], env={"TMPDIR": _WORK})
        host.run(["podman", "import", "--quiet", root, image])


def write_context(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the files of a build context: contents in base64 and whether they are executable, by path."""
    for name, file in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(file["content"]))
        path.chmod(0o755 if file["executable"] else 0o644)


def remove_foundations(host: Host, keep: Collection[str]) -> None:
    """Remove what built images stand on, but ``keep``; their own layers stay with them."""
    for image in sorted(host.images()):
        if is_foundation(image) and image not in keep:
            host.try_run(["podman", "image", "rm", "--ignore", image])


def is_foundation(image: str) -> bool:
    """Whether an image is there only for built ones to stand on."""
    return image.startswith((f"{DEBIAN}:", f"{BASE}:"))


@contextmanager
def work_directory(host: Host) -> Iterator[Path]:
    """Give a directory on the disk that is gone afterwards."""
    make_directory(host.path(_WORK))
    with tempfile.TemporaryDirectory(prefix="memoryark-", dir=host.path(_WORK)) as name:
        yield Path(name)


def recorded_tags(host: Host) -> dict[str, str]:
    """Return the digests that tags stood for in the last release, by reference; raises HostError."""
    try:
        tags: dict[str, str] = json.loads(host.read(TAGS) or "{}")
    except ValueError as error:
        raise HostError(f"{TAGS} is damaged; delete it, and all tags are resolved anew: {error}") from error
    return tags


def tags_text(tags: Mapping[str, str]) -> str:
    """Return the record of tags as it is kept, nothing if there are none."""
    return json.dumps(dict(tags), indent=1, sort_keys=True) + "\n" if tags else ""
