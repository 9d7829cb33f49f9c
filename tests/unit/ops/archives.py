"""Small OCI archives, whole and spoilt."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NAME = "org.opencontainers.image.ref.name"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def blob_path(name: str) -> str:
    """The path in the archive of the blob with this digest."""
    return f"blobs/{name.replace(':', '/')}"


def blob(content: bytes) -> str:
    """The path of a blob in the archive."""
    return blob_path(digest(content))


def described(content: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(content), "size": len(content)}


def image_files(text: str = "layer") -> tuple[str, dict[str, bytes]]:
    """The digest of an image with one layer, and the files of an archive of it."""
    layer, config = text.encode(), json.dumps({"config": {}, "text": text}).encode()
    parts = {
        "schemaVersion": 2,
        "config": described(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(layer, "application/vnd.oci.image.layer.v1.tar")],
    }
    manifest = json.dumps(parts).encode()
    index = {"manifests": [{**described(manifest, MANIFEST), "annotations": {NAME: "localhost/other:1"}}]}
    files = {blob(content): content for content in (layer, config, manifest)}
    return digest(manifest), {"index.json": json.dumps(index).encode(), "oci-layout": b"{}", **files}


def write_archive(path: Path, files: Mapping[str, bytes], mode: str = "w", prefix: str = "") -> None:
    opened: Callable[..., tarfile.TarFile] = tarfile.open
    with opened(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def save(path: Path, text: str = "layer") -> str:
    """Write an archive of an image; return its digest."""
    made, files = image_files(text)
    write_archive(path, files)
    return made
