"""The lab's certificate authority: what it issues, when it issues anew, and that TLS accepts it."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from memoryark_lab.authority import AuthorityError, Certificate, ensure_authority

NOW = datetime(2026, 5, 5, 12, tzinfo=UTC)
NAMES = ("api.line.me", "api-data.line.me")


def handshake(server: Certificate, ca: Path, name: str) -> None:
    """Shake hands in memory; raises ssl.SSLError when the client refuses the server."""
    server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=ca)
    # What newer Pythons check by default.
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    server_side.load_cert_chain(server.certificate, server.key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    answer = server_side.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, answer):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    client.do_handshake()


def leaf(certificate: Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate.certificate.read_bytes())


@pytest.mark.parametrize("name", [*NAMES, "192.0.2.2", "2001:db8::2"])
def test_clients_accept_the_names(tmp_path: Path, name: str) -> None:
    authority = ensure_authority(tmp_path)
    server = authority.ensure_certificate("line", NAMES, ["192.0.2.2", "2001:db8::2"])
    handshake(server, authority.certificate, name)


def test_clients_refuse_another_name_and_another_authority(tmp_path: Path) -> None:
    authority, other = ensure_authority(tmp_path / "one"), ensure_authority(tmp_path / "other")
    server = authority.ensure_certificate("line", NAMES)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, authority.certificate, "example.net")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, other.certificate, NAMES[0])


def test_openssl_verifies_the_chain(tmp_path: Path) -> None:
    authority = ensure_authority(tmp_path)
    server = authority.ensure_certificate("line", NAMES)
    options = f"-x509_strict -purpose sslserver -verify_hostname {NAMES[0]}".split()
    subprocess.run(
        ["openssl", "verify", *options, "-CAfile", authority.certificate, server.certificate],
        check=True,
        timeout=30,
        capture_output=True,
    )


def test_files(tmp_path: Path) -> None:
    authority = ensure_authority(tmp_path / "deep" / "ca")
    server = authority.ensure_certificate("line", NAMES)
    assert {path.stat().st_mode & 0o777 for path in (authority.key, server.key)} == {0o600}
    chain = x509.load_pem_x509_certificates(server.certificate.read_bytes())
    assert [link.subject for link in chain] == [chain[0].subject, chain[0].issuer]
    key = chain[0].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert not list(authority.directory.glob(".line*")), "no temporary file is left"


@pytest.mark.parametrize(
    ("days", "names", "addresses", "again"),
    [
        (0, NAMES, ("192.0.2.2",), False),
        (59, NAMES, ("192.0.2.2",), False),
        # 91 days from the backdated beginning to the end: a third is 30 days and 8 hours.
        (60, NAMES, ("192.0.2.2",), True),
        (200, NAMES, ("192.0.2.2",), True),
        (0, tuple(reversed(NAMES)), ("192.0.2.2",), False),
        (0, NAMES[:1], ("192.0.2.2",), True),
        (0, (*NAMES, "more.example"), ("192.0.2.2",), True),
        (0, NAMES, ("192.0.2.3",), True),
        (0, NAMES, (), True),
    ],
)
def test_when_it_is_issued_anew(
    tmp_path: Path, days: int, names: Sequence[str], addresses: Sequence[str], again: bool
) -> None:
    authority = ensure_authority(tmp_path, now=NOW)
    before = leaf(authority.ensure_certificate("line", NAMES, ["192.0.2.2"], now=NOW))
    later = NOW + timedelta(days=days)
    after = leaf(authority.ensure_certificate("line", names, addresses, now=later))
    assert (after.serial_number != before.serial_number) is again


def test_a_lost_key_or_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    authority = ensure_authority(tmp_path)
    server = authority.ensure_certificate("line", NAMES)
    for damage in (server.key.unlink, lambda: server.certificate.write_text("no certificate")):
        damage()
        authority.ensure_certificate("line", NAMES)
        handshake(server, authority.certificate, NAMES[0])


def test_a_new_authority_signs_everything_again(tmp_path: Path) -> None:
    authority = ensure_authority(tmp_path, now=NOW - timedelta(days=3000))
    server = authority.ensure_certificate("line", NAMES)
    before = authority.certificate.read_bytes()
    ensure_authority(tmp_path, now=NOW)
    assert authority.certificate.read_bytes() != before
    assert authority.ensure_certificate("line", NAMES) == server
    handshake(server, authority.certificate, NAMES[0])


def test_an_authority_is_kept(tmp_path: Path) -> None:
    before = ensure_authority(tmp_path).certificate.read_bytes()
    assert ensure_authority(tmp_path).certificate.read_bytes() == before


def test_a_short_life_can_be_had(tmp_path: Path) -> None:
    authority = ensure_authority(tmp_path)
    server = leaf(authority.ensure_certificate("old", NAMES, life=timedelta(hours=1)))
    assert server.not_valid_after_utc - datetime.now(UTC) <= timedelta(hours=1)


@pytest.mark.parametrize("name", ["", "ca", "../line", "Line", ".line", "li ne"])
def test_names_that_cannot_be_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(AuthorityError, match="cannot name a certificate"):
        ensure_authority(tmp_path).ensure_certificate(name, NAMES)


def test_no_name_at_all(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match="at least one"):
        ensure_authority(tmp_path).ensure_certificate("line", ())


def test_a_damaged_authority_is_told(tmp_path: Path) -> None:
    authority = ensure_authority(tmp_path)
    authority.key.unlink()
    with pytest.raises(AuthorityError, match="damaged"):
        ensure_authority(tmp_path)
    with pytest.raises(AuthorityError, match="ensure_authority first"):
        authority.ensure_certificate("line", NAMES)
