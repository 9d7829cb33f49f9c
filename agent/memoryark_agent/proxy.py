"""The proxy that serves the certificate."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

from memoryark_agent import pairs
from memoryark_agent.commands import run
from memoryark_agent.errors import AgentError
from memoryark_agent.pairs import Certificate

CONNECT_SECONDS = 5.0
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Proxy:
    """How to talk to it: ``test`` and ``reload`` are commands, ``port`` is on this host's loopback.

    ``patience`` is the seconds that it may take until it serves what it was told to read.
    """

    test: Sequence[str]
    reload: Sequence[str]
    port: int
    patience: float

    def take(self, certificate: Certificate, names: Sequence[str]) -> None:
        """Let it read its files anew; raises AgentError unless it then serves the certificate."""
        run(self.test)
        # Old workers may take long to end; systemd bounds that.
        run(self.reload, timeout=900.0)
        deadline = time.monotonic() + self.patience
        while wrong := self.differences(certificate, names):
            if time.monotonic() > deadline:
                raise AgentError(f"the proxy does not serve the certificate {certificate.serial}: {wrong[0]}")
            time.sleep(POLL_SECONDS)

    def differences(self, certificate: Certificate, names: Sequence[str]) -> list[str]:
        """Return for which of the names it does not serve ``certificate``, and what it does instead."""
        found = []
        for name in names:
            try:
                served = self.served(name)
            except OSError as error:
                found.append(f"port {self.port} for {name}: {error}")
            else:
                if served != certificate.fingerprint:
                    found.append(f"port {self.port} for {name}: another certificate, SHA-256 {served[:16]}…")
        return found

    def served(self, name: str) -> str:
        """Return the fingerprint of the certificate that it shows for a name; raises OSError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Which certificate it is, not whether it is trusted, is the question.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=CONNECT_SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=name) as channel,
        ):
            return pairs.fingerprint(channel.getpeercert(binary_form=True) or b"")
