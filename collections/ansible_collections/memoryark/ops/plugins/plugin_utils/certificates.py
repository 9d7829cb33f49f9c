# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the host has to know of the certificate, and what can be wrong with it before the host is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue, Service
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import Problem
from ansible_collections.memoryark.ops.plugins.plugin_utils.settings import SECRETS, is_placeholder

# The volumes of the catalogue by which a proxy gets them.
STORE = "tls"
WEBROOT = "acme-challenge"
# Where the role puts what the program reads.
PLACE = "/etc/memoryark/certificates"
OWN = "own"
PAIR = ("tls_certificate", "tls_key")
CREDENTIALS = "acme_dns_credentials"


def proxy_of(catalogue: Catalogue) -> Service | None:
    """Return the service that takes a certificate, None without one."""
    services = catalogue.services.values()
    return next((one for one in services if any(mount.source == STORE for mount in one.mounts)), None)


def secrets_of(method: str) -> tuple[str, ...]:
    """Return the names of the secrets that a way to a certificate needs; no way needs none."""
    if method == OWN:
        return PAIR
    return (CREDENTIALS,) if method.startswith("dns-") else ()


def site(
    catalogue: Catalogue, settings: Mapping[str, Any], root: str, names: Sequence[str]
) -> dict[str, Any]:
    """Return the settings of the host's program; nothing if no service takes a certificate."""
    proxy = proxy_of(catalogue)
    if proxy is None:
        return {}
    return {
        "names": list(names),
        "method": settings["memoryark_certificate"],
        "acme": {
            "directory": settings["memoryark_acme_directory"],
            "email": settings["memoryark_acme_email"] or settings["memoryark_root_admin_email"],
            "profile": settings["memoryark_acme_profile"],
            "credentials": f"{PLACE}/dns.ini",
            "trust": f"{PLACE}/authority.pem" if settings["memoryark_acme_authority"] else "",
        },
        "own": f"{PLACE}/own",
        "store": f"{root}/{catalogue.volumes[STORE].directory}",
        "group": catalogue.volumes[STORE].group,
        "webroot": f"{root}/{catalogue.volumes[WEBROOT].directory}",
        "proxy": {
            "test": ["podman", "exec", proxy.container_name, *proxy.config.check],
            "reload": ["systemctl", "reload", f"{proxy.unit}.service"],
        },
    }


def first_certificate(catalogue: Catalogue, root: str) -> list[str]:
    """Return the path without which the proxy would not start, nothing if no service takes a certificate."""
    return (
        [f"{root}/{catalogue.volumes[STORE].directory}/current/fullchain.pem"] if proxy_of(catalogue) else []
    )


def check_certificate(
    method: str, secrets: Mapping[str, Any], names: Sequence[str], now: datetime
) -> list[Problem]:
    """Return what is missing for the certificate, and what is wrong with one of the operator's own."""
    missing = [name for name in secrets_of(method) if not secrets.get(name)]
    if missing:
        return [
            Problem(
                f"inventory memoryark_secrets.{name}",
                f"is not set, and memoryark_certificate is {method}. {SECRETS[name].description}",
            )
            for name in missing
        ]
    certificate, key = (str(secrets.get(name)) for name in PAIR)
    # A placeholder is reported with the other secrets.
    if method != OWN or is_placeholder(certificate) or is_placeholder(key):
        return []
    return list(_check_pair(certificate, key, names, now))


def _check_pair(certificate: str, key: str, names: Sequence[str], now: datetime) -> Iterator[Problem]:
    # Imported here so that the pure parts of the collection load without it.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    where = "inventory memoryark_secrets.tls_certificate"
    try:
        leaf = x509.load_pem_x509_certificate(certificate.encode())
    except ValueError:
        yield Problem(where, "cannot be read; is it complete, and PEM?")
        return
    try:
        private = load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError):
        yield Problem(
            "inventory memoryark_secrets.tls_key", "cannot be read; it has to be PEM, without passphrase."
        )
    else:
        if private.public_key() != leaf.public_key():
            yield Problem(
                "inventory memoryark_secrets.tls_key",
                "is not the key of tls_certificate, whose first certificate has to be the server's own.",
            )
    # RFC 9525, section 6.3: only alternative names count.
    listed = [one.value for one in leaf.extensions if isinstance(one.value, x509.SubjectAlternativeName)]
    hosts = {host for one in listed for host in one.get_values_for_type(x509.DNSName)}
    if missing := [name for name in names if not {name, f"*.{name.partition('.')[2]}"} & hosts]:
        yield Problem(where, f"is not for {', '.join(missing)}.")
    if now >= leaf.not_valid_after_utc:
        yield Problem(where, f"expired on {leaf.not_valid_after_utc:%Y-%m-%d}.")
