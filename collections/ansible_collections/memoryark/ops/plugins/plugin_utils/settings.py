# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of an inventory: one table that checks them and documents them."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.memoryark.ops.plugins.plugin_utils.edge import parse_access_keys
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import Problem, suggestion
from ansible_collections.memoryark.ops.plugins.plugin_utils.quantities import MAX_PORT

PREFIX = "memoryark_"
_DOMAIN = r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}"
_EMAIL = r"[^@\s]+@[^@\s]+\.[^@\s]+"
CERTIFICATE_FORM = r"(?s)\s*-----BEGIN CERTIFICATE-----.+-----END CERTIFICATE-----\s*"
# Those of Debian's packages python3-certbot-dns-… that take a file with credentials.
DNS_PLUGINS = (
    "cloudflare",
    "digitalocean",
    "dnsimple",
    "gehirn",
    "google",
    "linode",
    "ovh",
    "rfc2136",
    "sakuracloud",
)
UNSET = "unset.invalid"
CLOCK_TOLERANCE = 30.0
_ZONE = r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*)*"
_PLACEHOLDER = re.compile(
    r"your[-_ ]|change[-_ ]?me|example\.(com|org|net)$|placeholder|<.*>|^x{3,}$", re.IGNORECASE
)


@dataclass(frozen=True)
class Setting:
    """``variable`` is the name under which Compose files use it; without ``pattern`` it is not a text.

    ``parse`` raises ValueError with what is wrong that no pattern can tell. ``check`` is for a list: it
    returns what is wrong with the value of the setting of that name. Compose files get a list as a text
    with spaces between its elements.
    """

    description: str
    variable: str = ""
    pattern: str = ""
    form: str = ""
    required: bool = False
    default: Any = None
    parse: Callable[[str], Any] | None = None
    check: Callable[[str, Any], list[Problem]] | None = None


def _networks(name: str, values: Any) -> list[Problem]:
    if not isinstance(values, list):
        return [Problem(f"inventory {name}", "has to be a list of addresses and networks.")]
    found = []
    for value in values:
        try:
            ipaddress.ip_network(str(value))
        except ValueError as error:
            found.append(Problem(f"inventory {name}", f"{error}."))
    return found


def _list_of(check: Callable[[str, Any], list[Problem]]) -> Callable[[str, Any], list[Problem]]:
    """Return a check of a list, each of whose entries ``check`` judges."""

    def checked(name: str, values: Any) -> list[Problem]:
        if not isinstance(values, list):
            return [Problem(f"inventory {name}", "has to be a list.")]
        return [
            problem for number, value in enumerate(values) for problem in check(f"{name}[{number}]", value)
        ]

    return checked


def _mapping(name: str, values: Any) -> list[Problem]:
    ok = isinstance(values, Mapping)
    return [] if ok else [Problem(f"inventory {name}", "has to be a mapping, with a key for each entry.")]


_REGISTRY_KEYS = {"location", "insecure"}


def _registry(name: str, value: Any) -> list[Problem]:
    if not isinstance(value, Mapping) or not isinstance(value.get("location"), str):
        return [Problem(f"inventory {name}", "needs a location, such as {location: 'registry.lan:5000'}.")]
    found = _unknown_keys(name, value, _REGISTRY_KEYS)
    if not isinstance(value.get("insecure", False), bool):
        found.append(Problem(f"inventory {name}.insecure", f"'{value['insecure']}' is not true or false."))
    return found


def _unknown_keys(name: str, value: Mapping[str, Any], known: set[str]) -> list[Problem]:
    return [
        Problem(f"inventory {name}", f"there is no key {key}.{suggestion(str(key), known)}")
        for key in sorted(set(value) - known, key=str)
    ]


def _ports(name: str, values: Iterable[Any]) -> list[Problem]:
    valid = re.compile(r"[1-9]\d{0,4}", re.ASCII)
    return [
        Problem(f"inventory {name}", f"'{value}' is not a port from 1 to 65535.")
        for value in values
        if valid.fullmatch(str(value)) is None or int(value) > MAX_PORT
    ]


def _ssh_ports(name: str, values: Any) -> list[Problem]:
    if not isinstance(values, list):
        return [Problem(f"inventory {name}", "has to be a list.")]
    if not values:
        return [Problem(f"inventory {name}", "is empty; nobody could come in.")]
    return _ports(name, values)


_OPENING_KEYS = {"port", "protocol", "sources"}


def _opening(name: str, value: Any) -> list[Problem]:
    if not isinstance(value, Mapping) or "port" not in value:
        return [Problem(f"inventory {name}", "needs a port, such as {port: 9100}.")]
    found = _unknown_keys(name, value, _OPENING_KEYS)
    if value.get("protocol", "tcp") not in {"tcp", "udp"}:
        found.append(Problem(f"inventory {name}.protocol", f"'{value['protocol']}' is not tcp or udp."))
    found += _ports(f"{name}.port", [value["port"]])
    return found + _networks(f"{name}.sources", value.get("sources", []))


SETTINGS: dict[str, Setting] = {
    "memoryark_domain": Setting(
        "The host name under which members open the archive.",
        variable="MEMORYARK_DOMAIN",
        pattern=_DOMAIN,
        form="a host name such as photos.your-church.tw",
        required=True,
    ),
    "memoryark_line_domain": Setting(
        "The host name to which LINE sends webhooks.",
        variable="LINE_DOMAIN",
        pattern=_DOMAIN,
        form="a host name such as line.photos.your-church.tw",
        required=True,
    ),
    "memoryark_line_channel_id": Setting(
        "The channel ID from the LINE Developers console.",
        variable="LINE_CHANNEL_ID",
        pattern=r"\d{4,20}",
        form="the channel's number",
        required=True,
    ),
    "memoryark_root_admin_email": Setting(
        "The first administrator of the archive.",
        variable="ROOT_ADMIN_EMAIL",
        pattern=_EMAIL,
        form="an e-mail address",
        required=True,
    ),
    "memoryark_photos": Setting(
        "Who may open the photos below `/uploads/files/` of the archive's name, and `/api/ws`, which tells "
        "of new ones: nobody (`closed`), `operators`, `members` who signed in by Cloudflare Access, or "
        "everybody who knows a photo's address (`public`), as the application has it: it asks nobody.",
        variable="MEMORYARK_PHOTOS",
        pattern=r"closed|operators|members|public",
        form="closed, operators, members or public",
        default="closed",
    ),
    "memoryark_access_issuer": Setting(
        "The team of Cloudflare Access by which members sign in. Without it nobody can.",
        variable="ACCESS_ISSUER",
        pattern=rf"https://{_DOMAIN}",
        form="an address such as https://your-church.cloudflareaccess.com",
        default="",
    ),
    "memoryark_access_audience": Setting(
        "The audience tag (AUD) of the application in Cloudflare Access.",
        variable="ACCESS_AUDIENCE",
        pattern=r"[0-9a-f]{64}",
        form="64 hexadecimal digits",
        default="",
    ),
    "memoryark_access_keys": Setting(
        "What `/cdn-cgi/access/certs` of `memoryark_access_issuer` shows: the keys that sign who somebody "
        "is. They change every few weeks.",
        variable="ACCESS_KEYS",
        pattern=r"(?s).+",
        form="the JSON text that Cloudflare shows",
        parse=parse_access_keys,
        default="",
    ),
    "memoryark_operator_networks": Setting(
        "From where pages for operators can be opened without a password, such as `/api/health`.",
        variable="OPERATOR_NETWORKS",
        form="a list of addresses and networks such as 203.0.113.0/24",
        check=_networks,
        default=[],
    ),
    "memoryark_trusted_proxies": Setting(
        "Proxies before this server that say in `X-Forwarded-For` who their client is, as a CDN does. Nobody "
        "else is believed.",
        variable="TRUSTED_PROXIES",
        form="a list of addresses and networks such as 203.0.113.0/24",
        check=_networks,
        default=[],
    ),
    "memoryark_images": Setting(
        "Where the image of each service comes from: `registry/name@sha256:…`, `registry/name:tag`, "
        "`oci-archive:/path` of a file on the control node, or `build` on the server.",
        required=True,
        check=_mapping,
    ),
    "memoryark_update_tags": Setting(
        "Whether tags in `memoryark_images` are looked up anew. Otherwise each keeps the digest for which it "
        "stood when it was deployed first.",
        default=False,
    ),
    "memoryark_build_date": Setting(
        "The day of the Debian packages in images that the server builds. A new one builds them anew, with "
        "the security updates since.",
        pattern=r"\d{4}-\d{2}-\d{2}",
        form="a date such as '2026-11-25'",
        default="",
    ),
    "memoryark_certificate": Setting(
        "Where the certificate comes from: `http-01`, an ACME server that visits the host names on port 80; "
        "`dns-cloudflare` or another of certbot's plugins, an ACME server that looks into DNS; `own`, the "
        "secrets `tls_certificate` and `tls_key`.",
        pattern=rf"http-01|own|dns-({'|'.join(DNS_PLUGINS)})",
        form=f"http-01, own, or dns- and one of {', '.join(DNS_PLUGINS)}",
        default="http-01",
    ),
    "memoryark_acme_directory": Setting(
        "The ACME server.",
        pattern=r"https://[\w.:\[\]-]+(/[\w./~-]*)?",
        form="the address of an ACME server's directory, https://…",
        default="https://acme-v02.api.letsencrypt.org/directory",
    ),
    "memoryark_acme_email": Setting(
        "The address of the account at the ACME server; that of `memoryark_root_admin_email` without it.",
        pattern=_EMAIL,
        form="an e-mail address",
        default="",
    ),
    "memoryark_acme_profile": Setting(
        "The profile of certificates, if the ACME server has several, such as `shortlived`.",
        pattern=r"[a-z0-9-]+",
        form="the name of a profile",
        default="",
    ),
    "memoryark_acme_authority": Setting(
        "The certificate, PEM, of the authority by which an ACME server of your own is known. A public one "
        "needs none.",
        pattern=CERTIFICATE_FORM,
        form="a PEM certificate",
        default="",
    ),
    "memoryark_hsts": Setting(
        "For how many seconds browsers insist on HTTPS (HSTS); 0 ends it.",
        variable="HSTS_SECONDS",
        pattern=r"\d{1,9}",
        form="a number of seconds",
        default=63072000,
    ),
    "memoryark_secrets": Setting(
        "Secret values by name, kept with ansible-vault.", required=True, check=_mapping
    ),
    "memoryark_compose": Setting(
        "Changes to the Compose files, in Compose's own form and merged by its rules.",
        check=_mapping,
        default={},
    ),
    "memoryark_root": Setting(
        "The host directory of all data.",
        pattern=r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)+",
        form="an absolute path",
        default="/srv/memoryark",
    ),
    "memoryark_registries": Setting(
        "Container registries with settings of their own: location, insecure.",
        check=_list_of(_registry),
        default=[],
    ),
    "memoryark_ssh_ports": Setting(
        "The ports of the server's SSH server.", form="a list of ports", check=_ssh_ports, default=[22]
    ),
    "memoryark_ssh_sources": Setting(
        "Addresses and networks that may use SSH, such as `203.0.113.7` or `2001:db8::/48`. Without any, all "
        "may, and each only so many times a minute.",
        form="a list of addresses and networks such as 203.0.113.0/24",
        check=_networks,
        default=[],
    ),
    "memoryark_firewall_openings": Setting(
        "Other ports of the server itself that are reached from outside, each with port, protocol (tcp or "
        "udp) and sources. Those of containers are opened for their Compose files.",
        form="a list such as [{port: 9100, protocol: tcp, sources: [203.0.113.0/24]}]",
        check=_list_of(_opening),
        default=[],
    ),
    "memoryark_resolve_names": Setting("Whether the host names must resolve on the server.", default=True),
    "memoryark_disk_needed": Setting(
        "Free disk space that a deployment needs, where the data is and where Podman keeps images.",
        default="4G",
    ),
    "memoryark_timezone": Setting(
        "Time zone of the host.",
        pattern=_ZONE,
        form="the name of a time zone such as Asia/Taipei",
        default="Asia/Taipei",
    ),
    "memoryark_acknowledged": Setting(
        "The last of the breaking changes of this project that you have read and done.",
        pattern=r"\d{1,9}",
        form="a version of docs/breaking-changes.yml, such as 1",
        default=0,
    ),
}


@dataclass(frozen=True)
class SecretRule:
    """What a usable secret looks like."""

    description: str
    pattern: str
    form: str


SECRETS: dict[str, SecretRule] = {
    "line_channel_access_token": SecretRule(
        "Long-lived channel access token of the LINE bot.", r"\S{40,}", "at least 40 characters"
    ),
    "line_channel_secret": SecretRule(
        "Channel secret, with which LINE signs webhooks.", r"[0-9a-f]{32}", "32 hexadecimal digits"
    ),
    "internal_api_token": SecretRule(
        "Shared by the LINE service and the backend.", r"\S{32,}", "at least 32 characters"
    ),
    "jwt_secret": SecretRule("Signs the backend's sessions.", r"\S{32,}", "at least 32 characters"),
    "operators": SecretRule(
        "Who may open pages for operators: NAME:HASH, one a line.",
        r"\s*([A-Za-z0-9._@-]+:\$6\$[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{86}\s+)*"
        r"[A-Za-z0-9._@-]+:\$6\$[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{86}\s*",
        "lines NAME:HASH, as passlib's sha512_crypt makes them with 5000 rounds",
    ),
    "tls_certificate": SecretRule(
        "Your own certificate chain for both host names, PEM.",
        CERTIFICATE_FORM,
        "a PEM certificate chain",
    ),
    "tls_key": SecretRule(
        "Key of that certificate, PEM without passphrase.",
        r"(?s)\s*-----BEGIN (EC |RSA )?PRIVATE KEY-----.+-----END (EC |RSA )?PRIVATE KEY-----\s*",
        "a PEM key without passphrase",
    ),
    "acme_dns_credentials": SecretRule(
        "What certbot's DNS plugin has to know, as its own documentation shows the file.",
        r"(?s).*\S.*",
        "the text of the plugin's credentials file",
    ),
}
OTHER_SECRET = SecretRule("", r"(?s).{16,}", "at least 16 characters")


def unknown_settings(names: Iterable[str]) -> list[Problem]:
    """Return a problem for every ``memoryark_…`` variable that means nothing."""
    return [
        Problem(f"inventory {name}", f"there is no such setting.{suggestion(name, SETTINGS)}")
        for name in names
        if name.startswith(PREFIX) and name not in SETTINGS
    ]


def check_settings(values: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with the settings; absent ones count as not set."""
    problems = []
    for name, setting in SETTINGS.items():
        value = values.get(name, setting.default)
        missing = value is None or value in ("", {})
        if setting.required and missing:
            problems.append(Problem(f"inventory {name}", f"is not set. {setting.description}"))
        elif missing and setting.default not in (None, "", {}, []):
            what = f"is empty. Leave it out for {as_text(setting.default)}."
            problems.append(Problem(f"inventory {name}", what))
        elif setting.pattern and not missing:
            wrong = _wrong(setting, as_text(value))
            problems += [Problem(f"inventory {name}", f"{wrong}.")] if wrong else []
        elif setting.check and value is not None:
            problems += setting.check(name, value)
    return problems + _check_sign_in(values)


def usable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with which other checks can go on: what is wrong was reported, and is as if not set."""

    def kept(setting: Setting, name: str, value: Any) -> Any:
        wrong = value is None or (setting.check and setting.check(name, value))
        return setting.default if wrong else value

    return {name: kept(SETTINGS[name], name, value) for name, value in values.items()}


def as_text(value: Any) -> str:
    """Return a value as text, as JSON what YAML has read of pasted JSON."""
    return json.dumps(value) if isinstance(value, Mapping | list) else str(value)


def _wrong(setting: Setting, text: str) -> str:
    if is_placeholder(text):
        return f"'{text}' is still a placeholder"
    if re.fullmatch(setting.pattern, text) is None:
        return f"'{text}' is not {setting.form}"
    try:
        if setting.parse:
            setting.parse(text)
    except ValueError as error:
        return str(error)
    return ""


def _check_sign_in(values: Mapping[str, Any]) -> list[Problem]:
    """Members sign in by three settings that mean nothing without each other."""
    together = [name for name in SETTINGS if name.startswith("memoryark_access_")]
    unset = [name for name in together if not values.get(name)]
    if len(unset) == len(together) and values.get("memoryark_photos") == "members":
        needs = ", ".join(together)
        return [Problem("inventory memoryark_photos", f"'members' can sign in only with {needs}.")]
    if len(unset) == len(together):
        return []
    return [Problem(f"inventory {name}", f"is not set. {SETTINGS[name].description}") for name in unset]


def is_placeholder(text: str) -> bool:
    """Tell whether a value was copied from an example and never filled in."""
    return _PLACEHOLDER.search(text) is not None


def check_secrets(values: Mapping[str, Any], used: Iterable[str]) -> list[Problem]:
    """Return what is wrong with secrets' values, and values that nothing uses. No value is ever shown."""
    used = set(used)
    problems = []
    for name, value in values.items():
        where = f"inventory memoryark_secrets.{name}"
        rule = SECRETS.get(name, OTHER_SECRET)
        if name not in used:
            problems.append(Problem(where, f"no service uses this secret.{suggestion(name, used)}"))
        elif not isinstance(value, str):
            problems.append(Problem(where, "is not a text; put it in quotes."))
        elif is_placeholder(value):
            problems.append(Problem(where, f"is still a placeholder. {rule.description}".rstrip()))
        elif re.fullmatch(rule.pattern, value) is None:
            problems.append(Problem(where, f"has not the form of this secret: {rule.form}."))
    return problems


def check_clock(before: float, host: float, after: float) -> list[Problem]:
    """Return what is wrong with the ``host``'s clock, read between ``before`` and ``after`` on this one.

    All are seconds since the epoch. A slow host is given the benefit of what the answer took.
    """
    off = min(host - before, 0.0) or max(host - after, 0.0)
    if abs(off) <= CLOCK_TOLERANCE:
        return []
    what = f"is {off:+.0f} s off the control node's; set it, certificates depend on it."
    return [Problem("clock of the host", what)]


def variables(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that Compose files may use.

    A setting that is missing or wrong was reported by ``check_settings``; here it gets a value that no other
    check stumbles over, so that it is reported once.
    """
    return {
        setting.variable: _variable(name, setting, values.get(name))
        for name, setting in SETTINGS.items()
        if setting.variable
    }


def _variable(name: str, setting: Setting, value: Any) -> str:
    if setting.check:
        return "" if value is None or setting.check(name, value) else " ".join(map(str, value))
    text = "" if value is None else as_text(value)
    if setting.required:
        return text or UNSET
    return str(setting.default) if _wrong(setting, text) else text
