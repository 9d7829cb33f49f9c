"""A host gets its certificate by itself, renews it without a restart, and keeps the old one in trouble."""

from __future__ import annotations

import pytest
from testinfra.host import Host

NAME = "photos.molecule.memoryark.test"
LINE = "line.molecule.memoryark.test"
AGENT = "python3 -I -B /usr/lib/memoryark/agent certificates"
METRICS = "/var/lib/memoryark/metrics/certificates.prom"
KEY = "/srv/test/tls/current/privkey.pem"


def served(host: Host, what: str, name: str = NAME) -> str:
    """What OpenSSL shows of the certificate that a visitor gets."""
    visit = f"openssl s_client -connect 127.0.0.1:443 -servername {name} < /dev/null 2>/dev/null"
    found: str = host.check_output(f"{visit} | openssl x509 -noout -{what}")
    return found


def container(host: Host) -> str:
    started: str = host.check_output("podman inspect edge --format '{{.Id}} {{.State.StartedAt}}'")
    return started


@pytest.mark.parametrize("name", [NAME, LINE])
def test_visitors_get_the_certificate_of_the_authority(host: Host, name: str) -> None:
    assert "Pebble" in served(host, "issuer", name)
    alternatives = served(host, "ext=subjectAltName", name)
    assert f"DNS:{NAME}" in alternatives and f"DNS:{LINE}" in alternatives


def test_the_program_says_so(host: Host) -> None:
    assert host.run(f"{AGENT} check").succeeded
    assert "The proxy serves it." in host.check_output(f"{AGENT} status")
    metrics = host.file(METRICS).content_string
    assert "memoryark_certificate_served 1.0" in metrics
    assert "memoryark_certificate_placeholder 0.0" in metrics


def test_the_key_is_for_the_proxy_only(host: Host) -> None:
    key = host.file(host.check_output(f"realpath {KEY}"))
    assert (key.uid, key.gid, key.mode) == (0, 33, 0o640)
    assert host.file("/var/lib/memoryark/certificates").mode == 0o700


def test_a_timer_looks_after_it(host: Host) -> None:
    assert host.check_output("systemctl is-active memoryark-certificates.timer") == "active"
    assert "memoryark-certificates.timer" in host.check_output("systemctl list-dependencies timers.target")
    before = served(host, "serial")
    host.check_output("systemctl start memoryark-certificates.service")
    assert served(host, "serial") == before, "it was not time yet"


def test_only_a_challenge_is_answered_without_tls(host: Host) -> None:
    for path, status in {"/photos": "308", "/.well-known/acme-challenge/none": "404"}.items():
        ask = f"exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; head -n 1 <&3"
        answer = host.check_output("bash -c %s", ask)
        assert answer.split()[1] == status


def test_a_new_one_is_served_without_a_restart(host: Host) -> None:
    before, running = served(host, "serial"), container(host)
    assert host.run(f"{AGENT} renew --force").succeeded
    assert served(host, "serial") != before
    assert container(host) == running


def test_in_trouble_the_old_one_stays_and_the_failure_is_told(host: Host) -> None:
    """The last one: the ACME server forgets its accounts when it ends."""
    before = served(host, "serial")
    host.check_output("systemctl stop pebble.service")
    failed = host.run(f"{AGENT} renew --force")
    assert failed.rc == 1
    assert "a certificate is needed, since it is asked for" in failed.stderr
    assert served(host, "serial") == before
    assert "memoryark_certificate_served 1.0" in host.file(METRICS).content_string
    assert "Last error" in host.check_output(f"{AGENT} status")
