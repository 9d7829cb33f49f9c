"""A certificate and its key: a directory with ``fullchain.pem`` and ``privkey.pem``, as certbot has them."""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from memoryark_agent.commands import run
from memoryark_agent.errors import AgentError

CHAIN = "fullchain.pem"
KEY = "privkey.pem"
# As certbot 4 does: with a third of the life left, and with half of one that is shorter than ten days.
SHORT_LIFE = timedelta(days=10)
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Certificate:
    """What a certificate says; ``fingerprint`` is the SHA-256 of it, ``serial`` is hexadecimal."""

    names: frozenset[str]
    not_before: datetime
    not_after: datetime
    serial: str
    fingerprint: str

    @property
    def due(self) -> datetime:
        """The moment from which it is to be renewed."""
        life = self.not_after - self.not_before
        return self.not_after - life / (2 if life < SHORT_LIFE else 3)

    def missing(self, hosts: Collection[str]) -> list[str]:
        """Return those of the host names that it is not for (RFC 9525, section 6.3)."""
        return [host for host in hosts if not {host, f"*.{host.partition('.')[2]}"} & self.names]


def read(directory: Path) -> Certificate:
    """Return the certificate of a pair; raises AgentError unless both are there and belong together."""
    chain, key = directory / CHAIN, directory / KEY
    try:
        text = chain.read_text(encoding="ascii")
        # It refuses a key that is not the certificate's. A passphrase would be asked for at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain, key, password=lambda: b"")
    except ssl.SSLError as error:
        raise AgentError(f"{chain} and {key} do not belong together: {error.reason or error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise AgentError(f"{directory} has no certificate that can be read: {error}") from error
    found = _PEM.search(text)
    if not found:
        raise AgentError(f"{chain} has no certificate")
    return parse(found[0])


@cache
def parse(pem: str) -> Certificate:
    """Return what one certificate says; raises AgentError if OpenSSL cannot read it."""
    shown = run(
        ["openssl", "x509", "-noout", "-serial", "-dates", "-dateopt=iso_8601", "-ext=subjectAltName"],
        data=pem.encode(),
    )
    fields = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return Certificate(
        names=frozenset(re.findall(r"DNS:([^,\s]+)", shown)),
        not_before=datetime.fromisoformat(fields["notBefore"]),
        not_after=datetime.fromisoformat(fields["notAfter"]),
        serial=fields["serial"],
        fingerprint=fingerprint(ssl.PEM_cert_to_DER_cert(pem)),
    )


def fingerprint(der: bytes) -> str:
    """Return the SHA-256 of a certificate in DER."""
    return hashlib.sha256(der).hexdigest()


def make_placeholder(directory: Path, names: Collection[str], days: int = 30) -> None:
    """Make a pair that nobody trusts: a proxy can start with it before there is a real one."""
    alternatives = ",".join(f"DNS:{name}" for name in names)
    run(
        [
            *("openssl", "req", "-x509", "-newkey=ec", "-pkeyopt=ec_paramgen_curve:P-256", "-nodes"),
            *("-subj=/CN=MemoryArk placeholder", f"-addext=subjectAltName={alternatives}", f"-days={days}"),
            *(f"-keyout={directory / KEY}", f"-out={directory / CHAIN}"),
        ]
    )
