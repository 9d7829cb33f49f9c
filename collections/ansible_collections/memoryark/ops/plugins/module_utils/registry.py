# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Asks a container registry whether it has an image, before anything depends on the answer.

Source of the calls: the OCI Distribution Specification; of the token exchange: the Docker Registry
token authentication that registries share.
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import urllib.parse
from collections.abc import Collection

from ansible.module_utils.urls import open_url

MANIFEST_TYPES = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.manifest.v1",
        "oci.image.index.v1",
        "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2",
    )
)
_DOCKER_HUB = {"docker.io": "registry-1.docker.io"}
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
TIMEOUT = 20.0


def manifest_url(reference: str, insecure: Collection[str]) -> str:
    """Return where the registry keeps the manifest of ``registry/name[:tag]@digest``."""
    name, _at, digest = reference.partition("@")
    registry, _slash, repository = name.partition("/")
    head, slash, last = repository.rpartition("/")
    repository = f"{head}{slash}{last.partition(':')[0]}"
    scheme = "http" if registry in insecure else "https"
    return f"{scheme}://{_DOCKER_HUB.get(registry, registry)}/v2/{repository}/manifests/{digest}"


def check_image(reference: str, insecure: Collection[str] = ()) -> str:
    """Return what is wrong with an image at its registry, an empty text if nothing is.

    A registry that wants credentials cannot be judged from here and counts as right: Podman has them.
    """
    url = manifest_url(reference, insecure)
    try:
        body = _get(url)
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            return ""
        if error.code == 404:
            return f"image not found: {reference}; push it, or correct the reference"
        return f"registry answered {error.code} for {reference}"
    except (urllib.error.URLError, OSError) as error:
        return f"registry of {reference} cannot be reached: {getattr(error, 'reason', error)}"
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    wanted = reference.partition("@")[2]
    if digest != wanted:
        return f"digest mismatch: {reference} was asked for, the registry gave {digest}"
    return ""


def _get(url: str) -> bytes:
    headers = {"Accept": MANIFEST_TYPES}
    try:
        return _fetch(url, headers)
    except urllib.error.HTTPError as error:
        challenge = error.headers.get("WWW-Authenticate", "")
        if error.code != 401 or not challenge.lower().startswith("bearer"):
            raise
        return _fetch(url, {**headers, "Authorization": f"Bearer {_anonymous_token(challenge)}"})


def _anonymous_token(challenge: str) -> str:
    fields = dict(_CHALLENGE.findall(challenge))
    query = urllib.parse.urlencode({key: fields[key] for key in ("service", "scope") if key in fields})
    answer = json.loads(_fetch(f"{fields.get('realm', '')}?{query}", {}))
    return str(answer.get("token") or answer.get("access_token") or "")


def _fetch(url: str, headers: dict[str, str]) -> bytes:
    if not url.startswith(("http://", "https://")):
        raise urllib.error.URLError(f"'{url}' is no web address")
    with open_url(url, headers=headers, timeout=TIMEOUT) as response:
        body: bytes = response.read(8 * 2**20)
        return body
