"""What an inventory may say."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.settings import (
    check_clock,
    check_secrets,
    check_settings,
    unknown_settings,
    variables,
)

GOOD: dict[str, Any] = {
    "memoryark_domain": "photos.church.tw",
    "memoryark_line_domain": "line.church.tw",
    "memoryark_line_channel_id": "1234567890",
    "memoryark_root_admin_email": "admin@church.tw",
    "memoryark_images": {"redis": "x"},
    "memoryark_secrets": {"jwt_secret": "x"},
}


def test_good_settings() -> None:
    assert check_settings(GOOD) == []
    assert unknown_settings(GOOD) == []


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("memoryark_domain", "", "is not set. The host name under which members open the archive."),
        ("memoryark_domain", None, "is not set."),
        ("memoryark_domain", "photos", "'photos' is not a host name such as"),
        ("memoryark_domain", "https://photos.church.tw", "is not a host name such as"),
        ("memoryark_domain", "photos.example.org", "is still a placeholder."),
        ("memoryark_line_channel_id", "your-line-channel-id", "is still a placeholder."),
        ("memoryark_line_channel_id", "12", "'12' is not the channel's number."),
        ("memoryark_root_admin_email", "admin", "'admin' is not an e-mail address."),
        ("memoryark_images", {}, "is not set."),
        ("memoryark_acknowledged", "two", "'two' is not a version of docs/breaking-changes.yml"),
        ("memoryark_acknowledged", -1, "'-1' is not a version"),
        ("memoryark_acknowledged", True, "'True' is not a version"),
        ("memoryark_build_date", "November", "'November' is not a date such as '2026-11-25'."),
        ("memoryark_root", "srv", "'srv' is not an absolute path."),
        ("memoryark_certificate", "acme", "'acme' is not http-01, own, or dns- and one of cloudflare, "),
        ("memoryark_certificate", "dns-route53", "'dns-route53' is not http-01"),
        ("memoryark_acme_directory", "http://acme.church.tw/dir", "is not the address of an ACME server's"),
        ("memoryark_acme_email", "admin", "'admin' is not an e-mail address."),
        ("memoryark_acme_authority", "/etc/ca.pem", "'/etc/ca.pem' is not a PEM certificate."),
        ("memoryark_hsts", "a year", "'a year' is not a number of seconds."),
        ("memoryark_root", "/srv/../etc/x y", "is not an absolute path."),
    ],
)
def test_one_bad_setting(name: str, value: Any, what: str) -> None:
    found = check_settings({**GOOD, name: value})
    assert [problem.where for problem in found] == [f"inventory {name}"]
    assert what in found[0].what


def test_a_misspelt_setting_is_recognised() -> None:
    found = unknown_settings(["memoryark_domian", "ansible_host", "memoryark_root"])
    assert [str(problem) for problem in found] == [
        "inventory memoryark_domian: there is no such setting. Did you mean 'memoryark_domain'?"
    ]


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("line_channel_secret", "0" * 32, None),
        ("line_channel_secret", "0" * 31, "32 hexadecimal digits"),
        ("line_channel_secret", "your-line-channel-secret", "is still a placeholder"),
        ("jwt_secret", "a" * 31, "at least 32 characters"),
        ("jwt_secret", "change-me", "is still a placeholder"),
        ("jwt_secret", 5, "is not a text"),
        ("jwt_secret", None, "is not a text"),
        ("tls_key", "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n", None),
        ("tls_key", "-----BEGIN ENCRYPTED PRIVATE KEY-----", "without passphrase"),
        ("other", "short", "at least 16 characters"),
        ("jwt_secrte", "a" * 40, "no service uses this secret. Did you mean 'jwt_secret'?"),
    ],
)
def test_secrets(name: str, value: Any, what: str | None) -> None:
    used = ["line_channel_secret", "jwt_secret", "tls_key", "other"]
    found = check_secrets({name: value}, used)
    if what is None:
        assert found == []
    else:
        assert len(found) == 1
        assert what in found[0].what
        assert str(value) not in found[0].what or value is None


def test_variables_of_missing_settings_do_not_stop_other_checks() -> None:
    assert variables({})["MEMORYARK_DOMAIN"] == "unset.invalid"
    assert variables(GOOD)["LINE_CHANNEL_ID"] == "1234567890"


@pytest.mark.parametrize(("value", "seconds"), [({}, "63072000"), ({"memoryark_hsts": 0}, "0")])
def test_variables_of_settings_with_a_default(value: dict[str, int], seconds: str) -> None:
    assert variables(value)["HSTS_SECONDS"] == seconds


@pytest.mark.parametrize(
    ("before", "host", "after", "off"),
    [
        (100.0, 101.0, 102.0, None),
        (100.0, 190.0, 200.0, None),  # slow, but its clock is right
        (100.0, 75.0, 200.0, None),
        (100.0, 60.0, 200.0, "-40 s"),
        (100.0, 300.0, 200.0, "+100 s"),
    ],
)
def test_the_clock(before: float, host: float, after: float, off: str | None) -> None:
    found = check_clock(before, host, after)
    assert len(found) == (off is not None)
    assert all(str(off) in problem.what for problem in found)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"memoryark_ssh_ports": [22, "2222"], "memoryark_ssh_sources": ["192.0.2.1", "2001:db8::/32"]}, []),
        ({"memoryark_firewall_openings": [{"port": 161, "protocol": "udp", "sources": ["192.0.2.1"]}]}, []),
        ({"memoryark_registries": None}, []),
        ({"memoryark_registries": [{"location": "registry.lan:5000", "insecure": True}]}, []),
        ({"memoryark_registries": "registry.lan"}, ["memoryark_registries: has to be a list."]),
        (
            {
                "memoryark_registries": [
                    {"locaton": "r"},
                    {"location": "r", "insecur": True, "insecure": "yes"},
                ]
            },
            [
                "memoryark_registries[0]: needs a location, such as {location: 'registry.lan:5000'}.",
                "memoryark_registries[1]: there is no key insecur. Did you mean 'insecure'?",
                "memoryark_registries[1].insecure: 'yes' is not true or false.",
            ],
        ),
        (
            {"memoryark_compose": "services:"},
            ["memoryark_compose: has to be a mapping, with a key for each entry."],
        ),
        (
            {"memoryark_secrets": "all of them"},
            ["memoryark_secrets: has to be a mapping, with a key for each entry."],
        ),
        ({"memoryark_root": ""}, ["memoryark_root: is empty. Leave it out for /srv/memoryark."]),
        ({"memoryark_root": None}, ["memoryark_root: is empty. Leave it out for /srv/memoryark."]),
        ({"memoryark_root": "/srv/.."}, ["memoryark_root: '/srv/..' is not an absolute path."]),
        ({"memoryark_root": "/srv/./ark"}, ["memoryark_root: '/srv/./ark' is not an absolute path."]),
        ({"memoryark_root": "/srv/.ark..d"}, []),
        ({"memoryark_certificate": ""}, ["memoryark_certificate: is empty. Leave it out for http-01."]),
        (
            {"memoryark_timezone": "../etc/passwd"},
            ["memoryark_timezone: '../etc/passwd' is not the name of a time zone such as Asia/Taipei."],
        ),
        ({"memoryark_timezone": "America/Argentina/Buenos_Aires"}, []),
        ({"memoryark_ssh_ports": []}, ["memoryark_ssh_ports: is empty; nobody could come in."]),
        ({"memoryark_ssh_ports": 22}, ["memoryark_ssh_ports: has to be a list."]),
        (
            {"memoryark_ssh_sources": "192.0.2.1"},
            ["memoryark_ssh_sources: has to be a list of addresses and networks."],
        ),
        (
            {
                "memoryark_ssh_ports": [0, "ssh", 65536],
                "memoryark_ssh_sources": ["my-laptop", "192.0.2.1/24"],
            },
            [
                "memoryark_ssh_ports: '0' is not a port from 1 to 65535.",
                "memoryark_ssh_ports: 'ssh' is not a port from 1 to 65535.",
                "memoryark_ssh_ports: '65536' is not a port from 1 to 65535.",
                "memoryark_ssh_sources: 'my-laptop' does not appear to be an IPv4 or IPv6 network.",
                "memoryark_ssh_sources: 192.0.2.1/24 has host bits set.",
            ],
        ),
        (
            {
                "memoryark_firewall_openings": [
                    9100,
                    {"protocol": "tcp"},
                    {"port": 9100, "protocoll": "tcp"},
                    {"port": -1, "protocol": "sctp", "sources": "everywhere"},
                    {"port": 1, "sources": ["everywhere"]},
                ]
            },
            [
                "memoryark_firewall_openings[0]: needs a port, such as {port: 9100}.",
                "memoryark_firewall_openings[1]: needs a port, such as {port: 9100}.",
                "memoryark_firewall_openings[2]: there is no key protocoll. Did you mean 'protocol'?",
                "memoryark_firewall_openings[3].protocol: 'sctp' is not tcp or udp.",
                "memoryark_firewall_openings[3].port: '-1' is not a port from 1 to 65535.",
                "memoryark_firewall_openings[3].sources: has to be a list of addresses and networks.",
                "memoryark_firewall_openings[4].sources: 'everywhere' does not appear to be an IPv4 or IPv6 network.",
            ],
        ),
    ],
)
def test_settings_of_the_firewall(settings: dict[str, Any], expected: list[str]) -> None:
    assert [f"{one.where}: {one.what}" for one in check_settings(GOOD | settings)] == [
        f"inventory {text}" for text in expected
    ]
