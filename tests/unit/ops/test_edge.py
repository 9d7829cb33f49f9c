"""What the proxy believes of a request, and the configuration that says so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import build_catalogue, load_catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.configs import render_configs
from ansible_collections.memoryark.ops.plugins.plugin_utils.edge import FORGEABLE_HEADERS, UNSAFE_PATH, rates
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import ProblemsError
from ansible_collections.memoryark.ops.plugins.plugin_utils.settings import (
    SETTINGS,
    check_secrets,
    check_settings,
    variables,
)
from compose_samples import smallest, sources
from hypothesis import example, given
from hypothesis import strategies as st
from passlib.hash import sha512_crypt

STACK = Path("stack")
SERVICES = ("redis", "nginx-proxy", "prometheus", "memoryark-backend", "memoryark-frontend", "line-service")
SECRETS = {
    *("internal_api_token", "jwt_secret", "line_channel_access_token", "line_channel_secret"),
    *("tls_certificate", "tls_key", "operators"),
}
NAMES = {"memoryark_domain": "photos.church.tw", "memoryark_line_domain": "line.church.tw"}
# A browser encodes all that is none of these.
ORDINARY = st.text("abcXYZ019-._~!$&'()*+,=:@", min_size=1).filter(lambda text: text not in {".", ".."})


def unsafe(target: str) -> bool:
    return re.search(UNSAFE_PATH, target, re.IGNORECASE) is not None


@given(st.lists(ORDINARY, max_size=5), st.text("abc./?=&%2e", max_size=20))
def test_what_browsers_send_is_safe(segments: list[str], query: str) -> None:
    assert not unsafe("/" + "/".join(segments))
    assert not unsafe("/" + "/".join(segments) + "?" + query)


def meaning(path: str) -> list[str]:
    """The segments that the most lenient program could see in a path."""
    while (decoded := unquote(path, errors="replace")) != path:
        path = decoded
    return [segment.partition(";")[0] for segment in path.replace("\\", "/").split("/")]


PIECES = (
    "/",
    ".",
    "..",
    "\\",
    ";",
    "%2e",
    "%2E",
    "%2f",
    "%5C",
    "%3b",
    "%252e",
    "%25252F",
    "%25255c",
    "%00",
    "a",
    "#",
)


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
@example("..;/")
@example("%2e%252E%2fa")
def test_what_a_lenient_program_would_take_for_another_path_is_not(rest: str) -> None:
    path = f"/{rest}"
    odd = {".", ".."} & set(meaning(path))
    assert unsafe(path) or not (odd or set("\\#\0") & set("/".join([path, *meaning(path)])))


def rendered(
    settings: Mapping[str, Any] | None = None, override: Mapping[str, Any] | None = None
) -> tuple[Catalogue, str]:
    names = variables({**NAMES, **(settings or {})})
    images = {name: f"registry.test/{name}@sha256:{'0' * 64}" for name in SERVICES}
    made = load_catalogue(STACK, variables=names, secrets=SECRETS, images=images, override=override or {})
    return made, render_configs(STACK, made, names)["nginx-proxy"]["nginx.conf"]


def location(text: str, path: str) -> str:
    """The lines of one location, comments and all."""
    found = re.search(rf"\n        location {re.escape(path)} {{\n(.*?)\n        }}\n", text, re.DOTALL)
    assert found is not None, path
    return found[1]


def test_every_forgeable_header_is_taken_off_where_all_locations_inherit_it() -> None:
    _made, text = rendered()
    for name in FORGEABLE_HEADERS:
        assert text.count(f'\n    proxy_set_header {name} "";\n') == 1
    # A location with one of its own would inherit none.
    assert re.findall(r"\n {5,}proxy_set_header", text) == []


def test_names_of_headers_are_said_once() -> None:
    assert len({name.lower() for name in FORGEABLE_HEADERS}) == len(FORGEABLE_HEADERS)
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name) for name in FORGEABLE_HEADERS)


@pytest.mark.parametrize(
    ("photos", "said", "unsaid"),
    [
        (None, ["return 404;"], ["proxy_pass", "allow"]),
        ("closed", ["return 404;"], ["proxy_pass", "allow"]),
        ("nonsense", ["return 404;"], ["proxy_pass"]),
        ("operators", ["deny all;", "proxy_pass", "set $untrusted 1;"], ["return 404;", "auth_basic"]),
        ("public", ["proxy_pass", "set $untrusted 1;"], ["return 404;", "deny all;"]),
    ],
)
def test_photos_are_closed_unless_the_inventory_opens_them(
    photos: str | None, said: list[str], unsaid: list[str]
) -> None:
    _made, text = rendered({"memoryark_photos": photos} if photos else {})
    found = location(text, "/uploads/files/")
    assert [words for words in said if words not in found] == []
    assert [words for words in unsaid if words in found] == []


def test_operators_come_from_their_networks_or_with_a_password() -> None:
    networks = {"memoryark_operator_networks": ["203.0.113.0/24", "2001:db8::/32"]}
    override = {
        "services": {"nginx-proxy": {"secrets": [{"source": "operators", "target": "operators"}]}},
        "secrets": {"operators": {"external": True}},
    }
    nobody = location(rendered()[1], "= /api/health")
    assert "deny all;" in nobody
    assert "allow" not in nobody
    both = location(rendered(networks, override)[1], "= /api/health")
    for words in (
        *("satisfy any;", "allow 203.0.113.0/24;", "allow 2001:db8::/32;", "deny all;"),
        *("auth_basic_user_file /run/secrets/operators;", "set $password_used 1;"),
    ):
        assert words in both


def test_a_trusted_proxy_is_one_of_the_inventory() -> None:
    assert "real_ip" not in rendered()[1]
    text = rendered({"memoryark_trusted_proxies": ["203.0.113.7", "2001:db8::/32"]})[1]
    for words in (
        "set_real_ip_from 203.0.113.7;",
        "set_real_ip_from 2001:db8::/32;",
        "real_ip_header X-Forwarded-For;",
    ):
        assert words in text


def test_each_rate_has_a_zone() -> None:
    route = {"host": "a.test", "path": "/", "port": 1}
    routes = [{**route, "path": f"/{rate}/", "rate": rate} for rate in (5, 100, 5)]
    routes = [{**one, "path": f"/{number}/"} for number, one in enumerate(routes)]
    made = build_catalogue(sources({"app": smallest(**{"x-memoryark": {"routes": [route, *routes]}})}))
    assert rates(made) == [5, 100]
    real, text = rendered()
    for rate in rates(real):
        assert f"zone=requests_{rate}:10m rate={rate}r/s;" in text


def test_a_webhook_is_read_whole_before_it_goes_on() -> None:
    _made, text = rendered()
    webhook, behind = location(text, "= /webhook/line"), location(text, "@signed-1")
    assert "js_content edge.line_signed;" in webhook
    assert "set $signed_location @signed-1;" in webhook
    assert "proxy_pass" not in webhook
    assert "proxy_pass http://line-service-3000;" in behind
    sizes = re.findall(r"client_(?:max_body|body_buffer)_size (\d+);", webhook)
    assert sizes == ["1048576"] * 2


def test_a_signed_body_has_to_fit_into_memory() -> None:
    route = {"host": "a.test", "path": "/", "port": 1, "body_size": "3M", "line_signature": True}
    with pytest.raises(ProblemsError) as caught:
        build_catalogue(sources({"app": smallest(**{"x-memoryark": {"routes": [route]}})}))
    assert [str(problem) for problem in caught.value.problems] == [
        "stack/app/compose.yml: services.app.x-memoryark.routes: "
        "a body that LINE signs is held in memory; its body_size is 2M at the most"
    ]


@pytest.mark.parametrize("value", ["everybody", "member"])
def test_the_word_for_access_is_a_known_one(value: str) -> None:
    route = {"host": "a.test", "path": "/", "port": 1, "access": value}
    with pytest.raises(ProblemsError, match="is not public, members, operators or closed"):
        build_catalogue(sources({"app": smallest(**{"x-memoryark": {"routes": [route]}})}))


@pytest.mark.parametrize(
    ("value", "text", "wrong"),
    [
        ([], "", []),
        (["203.0.113.0/24"], "203.0.113.0/24", []),
        (["2001:db8::/32", "203.0.113.7/32", "::1"], "2001:db8::/32 203.0.113.7/32 ::1", []),
        ("203.0.113.7", "", ["has to be a list of addresses and networks."]),
        (None, "", []),
        (
            ["203.0.113.0/33", "203.0.113.7;", "all", "999.1.1.1", "203.0.113.7"],
            "",
            ["203.0.113.0/33", "203.0.113.7;", "all", "999.1.1.1"],
        ),
    ],
)
@pytest.mark.parametrize("name", ["memoryark_operator_networks", "memoryark_trusted_proxies"])
def test_networks(name: str, value: list[str] | str | None, text: str, wrong: list[str]) -> None:
    settings = {} if value is None else {name: value}
    found = [one.what for one in check_settings(settings) if one.where == f"inventory {name}"]
    assert len(found) == len(wrong)
    assert all(word in what for word, what in zip(wrong, found, strict=True))
    assert variables(settings)[SETTINGS[name].variable] == text


KEYS = json.dumps({"keys": [{"kid": "k1", "kty": "RSA", "n": "AQAB", "e": "AQAB"}], "public_certs": []})
SIGN_IN = {
    "memoryark_access_issuer": "https://church.cloudflareaccess.com",
    "memoryark_access_audience": "0a" * 32,
    "memoryark_access_keys": KEYS,
}


def test_nobody_signs_in_without_a_source() -> None:
    _made, text = rendered()
    assert "auth_request" not in text
    assert "access.json" not in text


def test_members_sign_in_by_cloudflare_access() -> None:
    made, text = rendered({**SIGN_IN, "memoryark_photos": "members"})
    assert "auth_request /internal/visitor;" in location(text, "/api/")
    assert "auth_request /internal/member;" in location(text, "/uploads/files/")
    # The pages are for everybody, and the check of a token is not free.
    assert "auth_request" not in location(text, "/")
    names = variables({**NAMES, **SIGN_IN})
    written = json.loads(render_configs(STACK, made, names)["nginx-proxy"]["access.json"])
    key = {"kid": "k1", "kty": "RSA", "n": "AQAB", "e": "AQAB"}
    assert written == {
        "issuer": SIGN_IN["memoryark_access_issuer"],
        "audience": "0a" * 32,
        "keys": {"k1": key},
    }


def test_a_route_for_members_is_for_nobody_without_a_source() -> None:
    found = location(rendered({"memoryark_photos": "members"})[1], "/uploads/files/")
    assert "deny all;" in found
    assert "satisfy" not in found


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({}, None, ""),
        ({"memoryark_access_keys": json.loads(KEYS)}, None, ""),  # pasted as YAML
        ({"memoryark_access_keys": ""}, "memoryark_access_keys", "is not set."),
        ({"memoryark_access_issuer": ""}, "memoryark_access_issuer", "is not set."),
        ({"memoryark_access_audience": "0a"}, "memoryark_access_audience", "is not 64 hexadecimal digits"),
        ({"memoryark_access_issuer": "church"}, "memoryark_access_issuer", "is not an address such as"),
        ({"memoryark_access_keys": "{}"}, "memoryark_access_keys", "is not the set of keys"),
        ({"memoryark_access_keys": "https://x"}, "memoryark_access_keys", "is not the set of keys"),
        ({"memoryark_access_keys": '{"keys": []}'}, "memoryark_access_keys", "has no RSA key"),
        ({"memoryark_access_keys": '{"keys": [{"kty": "EC"}]}'}, "memoryark_access_keys", "has no RSA key"),
        (
            {"memoryark_access_keys": KEYS.replace('"k1"', '"k 1"')},
            "memoryark_access_keys",
            "has no RSA key that could be used",
        ),
        (
            dict.fromkeys(SIGN_IN, ""),
            "memoryark_photos",
            "'members' can sign in only with memoryark_access_issuer",
        ),
    ],
)
def test_settings_of_the_sign_in(change: dict[str, Any], where: str | None, what: str) -> None:
    settings = {**SIGN_IN, "memoryark_photos": "members", **change}
    found = [problem for problem in check_settings(settings) if "access" in str(problem)]
    assert [problem.where for problem in found] == ([f"inventory {where}"] if where else [])
    assert all(what in problem.what for problem in found)
    if where is None:
        assert json.loads(variables(settings)["ACCESS_KEYS"]) == json.loads(KEYS)


HASHED = f"$6$salt${'a' * 86}"


@pytest.mark.parametrize(
    ("value", "good"),
    [
        (f"anna:{HASHED}", True),
        (f"anna:{sha512_crypt.using(rounds=5000).hash('a passphrase')}", True),
        (f"anna:{HASHED}\nben@church.tw:{HASHED}\n", True),
        (f"anna:{HASHED} ben:{HASHED}:x", False),
        ("anna:a passphrase in the clear", False),
        (f"anna:$6$rounds=656000$salt${'a' * 86}", False),  # half a second of the proxy for each request
        (f"anna:$apr1$salt${'a' * 22}", False),
        (HASHED, False),
    ],
)
def test_passwords_of_operators(value: str, good: bool) -> None:
    assert (check_secrets({"operators": value}, {"operators"}) == []) == good
