# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the proxy believes of a request: data for its configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue

IDENTITY_HEADER = "CF-Access-Authenticated-User-Email"
"""What the application believes. Only the proxy says it, of a visitor whose token it has verified."""

FORGEABLE_HEADERS = (
    # Who somebody is, in the words of Cloudflare Access and of others.
    "CF-Access-Authenticated-User-Id",
    "CF-Access-Jwt-Assertion",
    "CF-Access-Client-Id",
    "CF-Access-Client-Secret",
    "Remote-User",
    "Remote-Name",
    "Remote-Email",
    "Remote-Groups",
    "X-Remote-User",
    "X-Remote-Email",
    "X-Remote-Groups",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Preferred-Username",
    "X-Forwarded-Access-Token",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Auth-Request-Groups",
    "X-Auth-Request-Preferred-Username",
    "X-Auth-Request-Access-Token",
    "X-Authenticated-User",
    "X-Authenticated-Email",
    "X-Goog-Authenticated-User-Email",
    "X-Goog-Authenticated-User-Id",
    "X-Goog-IAP-JWT-Assertion",
    "X-MS-Client-Principal",
    "X-MS-Client-Principal-Name",
    "X-User",
    "X-User-Email",
    "X-Email",
    "X-WebAuth-User",
    "X-Client-Verify",
    "X-SSL-Client-Cert",
    "X-SSL-Client-DN",
    # Where it comes from; the proxy says that itself.
    "Forwarded",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Original-Forwarded-For",
    # What was asked for; a program that believes these answers for another path or method than the proxy saw.
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-Uri",
    "X-Host",
    "X-HTTP-Method",
    "X-HTTP-Method-Override",
    "X-Method-Override",
    "X-Original-Host",
    "X-Original-URL",
    "X-Rewrite-URL",
    # Becomes the environment variable HTTP_PROXY in programs that follow RFC 3875.
    "Proxy",
)
"""Headers that a client may not send on to a service; nginx drops those with an underscore by itself."""

# However often they are encoded: a service may decode once more than the proxy did.
_SEPARATOR = r"(?:/|\x5c|%(?:25)*(?:2f|5c))"
_DOTS = r"(?:\.|%(?:25)*2e){1,2}"
_END = r"(?:/|\x5c|;|%(?:25)*(?:2f|5c|3b)|\?|$)"
UNSAFE_PATH = rf"^[^?]*(?:{_SEPARATOR}{_DOTS}{_END}|\x5c|#|%(?:25)*(?:5c|00))"
"""Matches, without regard to case, a request target that a service could take for another path than nginx.

Dot segments, backslashes, fragments and NUL. Browsers send none of them. nginx chooses the route by the path
in its normal form and passes on what was sent. Python and Perl read this expression alike.
"""


def parse_access_keys(text: str) -> list[dict[str, str]]:
    """Return the RSA keys of a JSON Web Key Set, without what else is in it; raises ValueError.

    Source of the form: RFC 7517; Cloudflare's set has the same keys as certificates too.
    """
    try:
        keys = [key for key in json.loads(text)["keys"] if key["kty"] == "RSA"]
        found = [{name: str(key[name]) for name in ("kty", "kid", "n", "e")} for key in keys]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("is not the set of keys that Cloudflare shows, as JSON") from None
    values = [value for key in found for value in key.values()]
    if not values or not all(re.fullmatch(r"[A-Za-z0-9_-]+", value) for value in values):
        raise ValueError("has no RSA key that could be used")
    return found


def access(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return whose tokens of Cloudflare Access are believed; empty when nobody's are."""
    if not all(variables.get(name) for name in ("ACCESS_ISSUER", "ACCESS_AUDIENCE", "ACCESS_KEYS")):
        return {}
    return {
        "issuer": variables["ACCESS_ISSUER"],
        "audience": variables["ACCESS_AUDIENCE"],
        "keys": {key["kid"]: key for key in parse_access_keys(variables["ACCESS_KEYS"])},
    }


def rates(catalogue: Catalogue) -> list[int]:
    """Return the different limits of requests a second that routes have."""
    return sorted({route.rate for service in catalogue.services.values() for route in service.routes})
