"""The lab's own certificate authority.

Every TLS server of the lab that is not under test (the LINE stand-in, the registry, the mail
server, ...) gets its certificate here, and every client of the lab trusts ``ca.pem``. The server
under test gets its certificates by ACME instead.

The authority lives in one directory (``STATE/ca`` by default) and is thrown away with it. Calls are
idempotent: what is still good is left alone, so no server of the lab is restarted without need.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from memoryark_lab import files
from memoryark_lab.paths import STATE

AUTHORITY_LIFE = timedelta(days=3650)
CERTIFICATE_LIFE = timedelta(days=90)
# A guest under emulation can start with a clock that is hours behind its host's.
BACKDATE = timedelta(days=1)

_FILE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")


class AuthorityError(Exception):
    """The authority cannot do what was asked; the message says what to do."""


@dataclass(frozen=True)
class Certificate:
    """Where one server's certificate lies.

    ``certificate`` is the full chain in PEM, the server's own first; ``key`` its private key,
    readable by the owner only.
    """

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority that signs for servers; ``certificate`` is what clients trust."""

    directory: Path

    @property
    def certificate(self) -> Path:
        """The authority's own certificate in PEM: give it to clients."""
        return self.directory / "ca.pem"

    @property
    def key(self) -> Path:
        """The authority's private key."""
        return self.directory / "ca.key"

    def ensure_certificate(
        self,
        name: str,
        dns_names: Sequence[str],
        addresses: Sequence[str] = (),
        life: timedelta = CERTIFICATE_LIFE,
        now: datetime | None = None,
    ) -> Certificate:
        """Return a certificate for a server that answers to these names and addresses.

        ``name`` is only the name of the files. The certificate is issued anew when there is none,
        when it is for other names, when another authority signed it or when less than a third of
        its life remains. ``now`` (an aware time) is for tests.

        Raises AuthorityError for a name that cannot be a file name or when no name is given, and
        ValueError for an address that is none.
        """
        if not _FILE_NAME.fullmatch(name) or name == "ca":
            raise AuthorityError(
                f"{name!r} cannot name a certificate: use small letters, digits, '.', '-', '_'"
            )
        wanted = _alternative_names(dns_names, addresses)
        if not wanted:
            raise AuthorityError(f"certificate {name!r} needs at least one DNS name or address")
        moment = now or datetime.now(UTC)
        paths = Certificate(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        with _locked(self.directory):
            issuer = _load_certificate(self.certificate)
            signer = _load_key(self.key)
            if issuer is None or signer is None:
                raise AuthorityError(f"no authority in {self.directory}: call ensure_authority first")
            if not _is_good(paths, issuer, wanted, moment):
                _issue(paths, issuer, signer, wanted, life=life, now=moment)
        return paths


def ensure_authority(directory: Path = STATE / "ca", now: datetime | None = None) -> Authority:
    """Return the authority kept in ``directory``; make it when there is none or it grows old.

    A new authority makes every certificate of the old one be issued again when next asked for.
    Raises AuthorityError when the files there are not an authority's.
    """
    moment = now or datetime.now(UTC)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = Authority(directory)
    with _locked(directory):
        present = [path for path in (authority.certificate, authority.key) if path.exists()]
        if present:
            certificate, key = _load_certificate(authority.certificate), _load_key(authority.key)
            if certificate is None or key is None or certificate.public_key() != key.public_key():
                raise AuthorityError(
                    f"{directory} holds a damaged authority: remove that directory and run again"
                )
            if _is_fresh(certificate, moment):
                return authority
        _found(authority, moment)
    return authority


def _found(authority: Authority, now: datetime) -> None:
    """Make a new authority, key first so that a crash leaves no certificate without its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "memoryark-ops"),
            x509.NameAttribute(NameOID.COMMON_NAME, "memoryark-ops lab authority"),
        ]
    )
    certificate = (
        _builder(name, name, key.public_key(), AUTHORITY_LIFE, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    files.write(authority.key, _pem_key(key), 0o600)
    files.write(authority.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _issue(
    paths: Certificate,
    issuer: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    names: Sequence[x509.GeneralName],
    *,
    life: timedelta,
    now: datetime,
) -> None:
    """Make a new key and have it certified for the names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(names[0].value)[:64])])
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), life, now)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    chain = b"".join(link.public_bytes(serialization.Encoding.PEM) for link in (certificate, issuer))
    files.write(paths.key, _pem_key(key), 0o600)
    files.write(paths.certificate, chain, 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta, now: datetime
) -> x509.CertificateBuilder:
    """Start a certificate with what all of them share."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    """What a key may be used for: to sign certificates, or only to prove who a server is."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(dns_names: Sequence[str], addresses: Sequence[str]) -> list[x509.GeneralName]:
    """Turn names and addresses into what a certificate lists."""
    return [
        *(x509.DNSName(name) for name in dns_names),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
    ]


def _is_good(
    paths: Certificate, issuer: x509.Certificate, names: Sequence[x509.GeneralName], now: datetime
) -> bool:
    """Whether the files hold a certificate of this issuer for exactly these names, still fresh."""
    certificate, key = _load_certificate(paths.certificate), _load_key(paths.key)
    if certificate is None or key is None or certificate.public_key() != key.public_key():
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return set(listed) == set(names) and _is_fresh(certificate, now)


def _is_fresh(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether at least a third of the certificate's life remains."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now >= life / 3


def _load_certificate(path: Path) -> x509.Certificate | None:
    """Read the first certificate of a PEM file; None when there is none to read."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    """Read an EC private key; None when there is none to read."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other processes of the lab out: parallel test runs share one authority."""
    if not directory.is_dir():
        raise AuthorityError(f"no authority in {directory}: call ensure_authority first")
    with files.locked(directory / ".lock", "the authority"):
        yield
