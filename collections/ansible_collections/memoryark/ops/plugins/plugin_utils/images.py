# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Images that no registry has: archives on the control node, and what the host is to build.

Each gets its name from its content, so that another content is another image.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils.debian import debootstrap_command
from ansible_collections.memoryark.ops.plugins.module_utils.images import BASE, DEBIAN, OCI_MANIFEST, OWN
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import (
    File,
    LocalImages,
    Recipe,
    texts,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import Problem

BUILD = "build"
ARCHIVE = "oci-archive:"
DOCKER_ARCHIVE = "docker-archive:"
SAVE = "`podman save --format oci-archive` or `skopeo copy … oci-archive:FILE` makes one"
# A context travels as an argument of a module.
CONTEXT_LIMIT = 16 * 2**20
COMPOSE = "compose.yml"


class ImageError(ValueError):
    """An archive or a build that cannot become an image; the message is for the operator."""


def local_images(
    stack: Path, services: Mapping[str, Any], chosen: Mapping[str, Any], date: str, where: str
) -> tuple[LocalImages, list[Problem]]:
    """Return the images that are not in a registry, of those ``chosen`` by service, and what is wrong there.

    ``services`` are Compose's, ``date`` that of the packages in images to build; ``where`` names the setting.
    """
    found, problems = LocalImages(), []
    for name, word in chosen.items():
        try:
            if not isinstance(word, str):
                raise ImageError("is not a text; put it in quotes")
            if word == BUILD:
                recipes = service_recipes(stack, name, (services.get(name) or {}).get("build"), date)
                found.recipes |= {recipe.image: recipe for recipe in recipes}
                found.references[name] = recipes[-1].image
            elif word.startswith(ARCHIVE):
                path = word.removeprefix(ARCHIVE)
                found.references[name] = f"{OWN}{name}@{archive_digest(path)}"
                found.archives[found.references[name]] = path
            elif word.startswith(DOCKER_ARCHIVE):
                raise ImageError(f"a Docker archive does not say which digest its image will have; {SAVE}")
        except ImageError as error:
            problems.append(Problem(f"{where}.{name}", f"{error}."))
            # A name over which no other check stumbles, so that it is reported once.
            found.references[name] = f"{OWN}{name}:unset"
    return found, problems


# --- archives


def archive_digest(path: str) -> str:
    """Return the digest of the one image in an OCI archive; raises ImageError.

    Source of the format: the OCI Image Layout Specification.
    """
    if not path.startswith("/") or ":" in path:
        raise ImageError(f"'{path}' is not an absolute path on the control node, without a colon")
    try:
        with tarfile.open(path) as tar:
            return _image_in(tar, path)
    except FileNotFoundError:
        raise ImageError(f"there is no file {path} on the control node") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ImageError(f"{path} is no tar archive, or only part of one") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path} is no OCI archive; {SAVE}") from error


def _image_in(tar: tarfile.TarFile, path: str) -> str:
    members = {member.name.removeprefix("./"): member for member in tar.getmembers() if member.isfile()}

    def read(name: str) -> bytes:
        file = tar.extractfile(members[name])
        if file is None:
            raise KeyError(name)
        return file.read()

    manifests = json.loads(read("index.json"))["manifests"]
    if len(manifests) != 1:
        raise ImageError(f"{path} has {len(manifests)} images; save one alone")
    if manifests[0]["mediaType"] != OCI_MANIFEST:
        raise ImageError(f"{path} has '{manifests[0]['mediaType']}'; save one image, of one platform, as OCI")
    digest: str = manifests[0]["digest"]
    missing = ImageError(f"{path} is incomplete; save it again")
    if _blob(digest) not in members:
        raise missing
    manifest = read(_blob(digest))
    if f"sha256:{hashlib.sha256(manifest).hexdigest()}" != digest:
        raise missing
    parts = json.loads(manifest)
    for part in (parts["config"], *parts["layers"]):
        member = members.get(_blob(part["digest"]))
        if member is None or member.size != part["size"]:
            raise missing
    return digest


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


# --- builds


def service_recipes(stack: Path, name: str, spec: Any, date: str) -> list[Recipe]:
    """Return how to build the image of a service, first what it stands on; raises ImageError.

    ``spec`` is its ``build`` in Compose.
    """
    if not spec or not spec.get("context"):
        raise ImageError("its Compose file has no build with a context; write a reference or an archive")
    root = Recipe(f"{DEBIAN}:{debian_key(date)}")
    base_files = read_context(stack / "base", "Containerfile")
    base = Recipe(
        f"{BASE}:{content_hash(base_files, root.image)}", root.image, "ROOT", {}, "Containerfile", base_files
    )
    # Compose's own default.
    containerfile = spec.get("dockerfile") or "Dockerfile"
    arguments = texts(spec.get("args"))
    files = read_context(stack / spec["context"], containerfile)
    key = content_hash(files, base.image, containerfile, json.dumps(arguments, sort_keys=True))
    return [root, base, Recipe(f"{OWN}{name}:{key}", base.image, "BASE", arguments, containerfile, files)]


def read_context(folder: Path, containerfile: str) -> dict[str, File]:
    """Return the files of a build context by path; raises ImageError without ``containerfile``."""
    try:
        files = context_files(folder)
    except OSError as error:
        raise ImageError(f"{folder} cannot be read: {error.strerror or error}") from error
    if containerfile not in files:
        raise ImageError(f"there is no {folder / containerfile} to build from")
    if sum(len(file.content) for file in files.values()) > CONTEXT_LIMIT:
        raise ImageError(f"{folder} has more than 16 MiB to build from; build elsewhere and write {ARCHIVE}…")
    return files


def context_files(folder: Path) -> dict[str, File]:
    """Return the files below ``folder`` that an image may be made of, by path.

    What the catalogue reads from a service's folder, its Compose file and its configuration, is in no image.
    """
    catalogues = {COMPOSE, "config"} if (folder / COMPOSE).exists() else set()
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        str(name): File(path.read_bytes(), bool(path.stat().st_mode & 0o100))
        for name, path in paths.items()
        if "__pycache__" not in name.parts and name.parts[0] not in catalogues
    }


def content_hash(files: Mapping[str, File], *ingredients: str) -> str:
    """Hash files (names, modes, contents) together with what else goes into the image."""
    total = hashlib.sha256("\0".join(ingredients).encode())
    for name, file in sorted(files.items()):
        content = hashlib.sha256(file.content).hexdigest()
        total.update(f"\0{name}\0{file.executable}\0{content}".encode())
    return total.hexdigest()[:16]


def debian_key(date: str) -> str:
    """Return the key of the Debian that images stand on; another ``date`` is another Debian."""
    return content_hash({}, *debootstrap_command("-"), date)
