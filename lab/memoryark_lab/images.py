"""Builds the images that disposable hosts run, without any container registry to start from.

A Debian root file system (mmdebstrap) becomes ``memoryark-base``, that the parent of all others. An
image is named by the hash of everything it is made from, and is pushed under that name to the lab's
registry: an image that the registry already has is neither built nor pushed again.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ansible_collections.memoryark.ops.plugins.module_utils.debian import debootstrap_command
from ansible_collections.memoryark.ops.plugins.plugin_utils.images import (
    content_hash,
    context_files,
    debian_key,
)

from . import debian, files, registry
from .errors import LabError
from .paths import CACHE, REPO, STATE
from .progress import Progress, clock

BASE_CONTEXT = REPO / "stack" / "base"
IMAGES: Mapping[str, Path] = {
    "redis": REPO / "stack" / "redis",
    "nginx-proxy": REPO / "stack" / "nginx-proxy",
    "prometheus": REPO / "stack" / "prometheus",
    "memoryark-backend": REPO / "lab" / "sample" / "backend",
    "memoryark-frontend": REPO / "lab" / "sample" / "frontend",
    "line-service": REPO / "lab" / "sample" / "line-service",
}
NAMESPACE = "memoryark"
# zstd rather than gzip: smaller, and a guest without KVM unpacks it several times faster.
COMPRESSION = "zstd"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class ImageRef:
    """An image in the registry, as a host refers to it."""

    reference: str
    """``registry/namespace/name@sha256:...``"""
    digest: str
    size: int
    """Bytes to transfer: configuration and compressed layers."""


def context_hash(context: Path, *ingredients: str) -> str:
    """Hash a build context together with what else goes into the image."""
    return content_hash(context_files(context), *ingredients)


def this_month() -> str:
    """Return the month as ``2026-11``."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m")


def image_keys(month: str) -> dict[str, str]:
    """Return the key of every image, and of the two they stand on, for a month like ``2026-11``.

    The month is an ingredient so that Debian's security updates come in without anyone asking.
    """
    root = debian_key(month)
    base = context_hash(BASE_CONTEXT, root)
    keys = {name: context_hash(context, base) for name, context in IMAGES.items()}
    return {"memoryark-debian": root, "memoryark-base": base, **keys}


def published(address: str, name: str, key: str, public_name: str) -> ImageRef | None:
    """Look an image up in the registry at ``address``; refer to it under the registry's public name."""
    url = f"http://{address}/v2/{NAMESPACE}/{name}/manifests/{key}"
    request = urllib.request.Request(url, headers={"Accept": _MANIFEST})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            body = answer.read()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise LabError(f"the registry answered {error.code} to {url}") from error
    manifest = json.loads(body)
    digest = "sha256:" + hashlib.sha256(body).hexdigest()
    size = manifest["config"]["size"] + sum(layer["size"] for layer in manifest["layers"])
    return ImageRef(f"{public_name}/{NAMESPACE}/{name}@{digest}", digest, size)


class Builder:
    """Runs podman on a store of its own under ``cache``."""

    def __init__(self, progress: Progress, cache: Path = CACHE) -> None:
        self._progress = progress
        self._cache = cache
        self._podman = [
            "podman",
            *("--root", str(cache / "podman" / "root")),
            *("--runroot", str(cache / "podman" / "run")),
            # Neither systemd nor journald is needed to build.
            *("--events-backend", "none"),
            *("--cgroup-manager", "cgroupfs"),
        ]

    def ensure_base(self, keys: Mapping[str, str]) -> str:
        """Return the local name of the base image, made if it is missing."""
        base = f"localhost/memoryark-base:{keys['memoryark-base']}"
        root = f"localhost/memoryark-debian:{keys['memoryark-debian']}"
        if self._has(base):
            return base
        if not self._has(root):
            tar = self._ensure_debian(keys["memoryark-debian"])
            self._run("memoryark-debian", [*self._podman, "import", "--quiet", str(tar), root])
        self._build("memoryark-base", BASE_CONTEXT, base, f"ROOT={root}")
        return base

    def build(self, name: str, key: str, base: str, *, fresh: bool = False) -> str:
        """Return the local name of an image, built if it is missing; ``fresh`` uses no layer built before."""
        local = f"localhost/{NAMESPACE}/{name}:{key}"
        if fresh or not self._has(local):
            self._build(name, IMAGES[name], local, f"BASE={base}", *(["--no-cache"] if fresh else []))
        return local

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """Show the root file system of a local image, for reading."""
        done = subprocess.run(
            [*self._podman, "image", "mount", image], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise LabError(f"{image} cannot be mounted: {done.stderr.strip()}")
        try:
            yield Path(done.stdout.strip())
        finally:
            subprocess.run([*self._podman, "image", "unmount", image], capture_output=True, check=False)

    def publish(self, name: str, key: str, base: str, address: str, *, fresh: bool = False) -> None:
        """Build one image and push it to the registry."""
        local = self.build(name, key, base, fresh=fresh)
        push = ["push", "--quiet", "--tls-verify=false", "--format=oci"]
        remote = f"docker://{address}/{NAMESPACE}/{name}:{key}"
        self._run(
            f"{name}-push", [*self._podman, *push, f"--compression-format={COMPRESSION}", local, remote]
        )
        # The newest stays as the layer cache of the next build; its predecessors only take space.
        for old in self._tags(f"localhost/{NAMESPACE}/{name}") - {local}:
            self._run(f"{name}-untag", [*self._podman, "rmi", old])

    def _ensure_debian(self, key: str) -> Path:
        tar = self._cache / f"memoryark-debian-{key}.tar"
        if not tar.exists():
            self._progress.say("  memoryark-debian: mmdebstrap, about 40 s")
            fresh = tar.with_suffix(f".{os.getpid()}.tar")
            try:
                command = debootstrap_command(str(fresh), *debian.sources())
                self._run("memoryark-debian", command, within=debian.own_mounts())
                fresh.replace(tar)
            finally:
                fresh.unlink(missing_ok=True)
        return tar

    def _has(self, image: str) -> bool:
        done = subprocess.run([*self._podman, "image", "exists", image], capture_output=True, check=False)
        return done.returncode == 0

    def _tags(self, repository: str) -> set[str]:
        command = [*self._podman, "images", "--format={{.Repository}}:{{.Tag}}", repository]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return {line for line in done.stdout.split() if not line.endswith(":<none>")}

    def _build(self, name: str, context: Path, tag: str, argument: str, *options: str) -> None:
        command = [
            *self._podman,
            "build",
            # Needs no cgroups, no network namespace and no container runtime.
            *("--isolation=chroot", "--network=host", "--pull=never"),
            # A change of the application then neither installs packages again nor has them pulled again.
            "--layers",
            *("--format=oci", "--build-arg", argument, "--tag", tag, *options, str(context)),
        ]
        self._run(name, command)

    def _run(self, name: str, command: list[str], *, within: Sequence[str] = ()) -> None:
        """Run a command into a log file of its own; its last lines come with the error."""
        program = command[0]
        if shutil.which(program) is None:
            raise LabError(f"{program} is missing; install Debian's package {program}")
        logs = self._cache / "build-logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{name}.log"
        with log.open("wb") as output:
            done = subprocess.run([*within, *command], stdout=output, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
            raise LabError(f"{name}: {program} failed with exit code {done.returncode}; {log} ends:\n{tail}")


@contextmanager
def root_of(name: str, progress: Progress, cache: Path = CACHE) -> Iterator[Path]:
    """Show the root file system of an image as it stands in the sources, without any registry."""
    keys, builder = image_keys(this_month()), Builder(progress, cache)
    cache.mkdir(parents=True, exist_ok=True)
    with files.locked(cache / "images.lock", "the images"):
        image = builder.build(name, keys[name], builder.ensure_base(keys))
    with builder.mounted(image) as root:
        yield root


def build_all(
    progress: Progress,
    *,
    names: Iterable[str] | None = None,
    registry_name: str | None = None,
    force: bool = False,
    state: Path = STATE,
    cache: Path = CACHE,
) -> dict[str, ImageRef]:
    """Make sure that the registry runs and has every image; takes one step of ``progress``.

    ``registry_name`` is what goes into the references, by default the name by which a guest reaches
    the registry. The references are also written to ``state/images.json``.
    """
    wanted = list(IMAGES if names is None else names)
    if unknown := [name for name in wanted if name not in IMAGES]:
        raise LabError(f"no image {', '.join(unknown)}; there are {', '.join(IMAGES)}")
    server = registry.up(state, cache / "registry")
    public = registry_name or server.guest_address
    keys = image_keys(this_month())
    found: dict[str, ImageRef] = {}

    def lookup(name: str) -> ImageRef | None:
        return published(server.address, name, keys[name], public)

    with progress.step("Build and publish images", "3 min from nothing, 1 s when unchanged"):
        for number, name in enumerate(wanted, start=1):
            begun = time.monotonic()
            ref, note = (None if force else lookup(name)), "unchanged"
            if ref is None:
                with files.locked(cache / "images.lock", "the images"):
                    # Another checkout may have built it while this one waited.
                    ref = None if force else lookup(name)
                    if ref is None:
                        builder = Builder(progress, cache)
                        base = builder.ensure_base(keys)
                        builder.publish(name, keys[name], base, server.address, fresh=force)
                        ref, note = lookup(name), f"built in {clock(time.monotonic() - begun)}"
            if ref is None:
                raise LabError(f"{name} was pushed to {server.url}, which does not have it")
            found[name] = ref
            progress.say(f"  {number}/{len(wanted)} {name}: {note}, {ref.size / 1e6:.1f} MB")
    _remember(found, state)
    return found


def known(state: Path = STATE) -> dict[str, ImageRef]:
    """Return the images that the registry is known to have, by name; none before the first build."""
    try:
        written = json.loads((state / "images.json").read_text())
    except (OSError, ValueError):
        return {}
    return {name: ImageRef(**ref) for name, ref in written.items()}


def _remember(found: Mapping[str, ImageRef], state: Path) -> None:
    """Write the references down, keeping those of images that were not asked for this time."""
    everything = {name: asdict(ref) for name, ref in {**known(state), **found}.items()}
    files.write(state / "images.json", json.dumps(everything, indent=2, sort_keys=True) + "\n")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``images build`` to the lab's command line."""
    parser = subparsers.add_parser("images", help="container images for the disposable hosts")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser("build", help="build what changed and push it to the lab's registry")
    build.add_argument("names", nargs="*", metavar="IMAGE", help=f"of {', '.join(IMAGES)}; default: all")
    build.add_argument("--registry-name", help="host:port to put into the references")
    build.add_argument("--force", action="store_true", help="build even what the registry has")

    def run(args: argparse.Namespace) -> int:
        build_all(
            Progress(total=1),
            names=args.names or None,
            registry_name=args.registry_name,
            force=args.force,
        )
        return 0

    build.set_defaults(run=run)
