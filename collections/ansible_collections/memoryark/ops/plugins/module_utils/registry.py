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


class RegistryError(Exception):
    """A registry did not give an image; the message is for the operator."""


class PrivateError(RegistryError):
    """The registry gives the image only to those who have a password."""


def manifest_url(reference: str, insecure: Collection[str]) -> str:
    """Return where the registry keeps the manifest of ``registry/name[:tag][@digest]``."""
    name, _at, digest = reference.partition("@")
    registry, _slash, repository = name.partition("/")
    head, slash, last = repository.rpartition("/")
    last, _colon, tag = last.partition(":")
    scheme = "http" if registry in insecure else "https"
    address = f"{scheme}://{_DOCKER_HUB.get(registry, registry)}"
    return f"{address}/v2/{head}{slash}{last}/manifests/{digest or tag}"


def check_image(reference: str, insecure: Collection[str] = ()) -> str:
    """Return what is wrong with an image at its registry, an empty text if nothing is.

    A registry that wants credentials cannot be judged from here and counts as right: Podman has them.
    """
    try:
        digest = _digest(reference, insecure)
    except PrivateError:
        return ""
    except RegistryError as error:
        return str(error)
    if digest != reference.partition("@")[2]:
        return f"digest mismatch: {reference} was asked for, the registry gave {digest}"
    return ""


def resolve_tag(reference: str, insecure: Collection[str] = ()) -> str:
    """Return the digest for which ``registry/name:tag`` stands now; raises RegistryError."""
    try:
        return _digest(reference, insecure)
    except PrivateError:
        raise RegistryError(
            f"the registry wants a password before it tells what {reference} stands for; "
            "write the digest, as registry/name@sha256:…"
        ) from None


def _digest(reference: str, insecure: Collection[str]) -> str:
    """Return the digest of the manifest that the registry has under a reference."""
    try:
        body = _get(manifest_url(reference, insecure))
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            raise PrivateError(reference) from error
        if error.code == 404:
            raise RegistryError(f"image not found: {reference}; push it, or correct the reference") from error
        raise RegistryError(f"registry answered {error.code} for {reference}") from error
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise RegistryError(f"registry of {reference} cannot be reached: {reason}") from error
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


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
