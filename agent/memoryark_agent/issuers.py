"""Where certificates come from: files of the operator's own, or an ACME server by certbot."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memoryark_agent.commands import run
from memoryark_agent.errors import AgentError

# An ACME server may take minutes, and a DNS plugin waits until its record is known everywhere.
ISSUE_SECONDS = 1200.0
KEPT_LOGS = 20
# A problem document in an answer (RFC 8555, section 6.7).
_PROBLEM = re.compile(r'"type":\s*"urn:ietf:params:acme:error:(\w+)",\s*"detail":\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class Own:
    """``pair`` is the directory of the operator's own certificate."""

    pair: Path
    origin: str = "own"


@dataclass(frozen=True)
class Acme:
    """An ACME server (RFC 8555), asked by certbot, which keeps its things below ``state``.

    ``method`` is ``http-01`` or the name of a plugin such as ``dns-cloudflare``, whose settings are in the
    file ``credentials``. ``trust`` is a PEM file with the server's own authority, if it is no public one.
    """

    method: str
    directory: str
    email: str
    state: Path
    webroot: Path
    profile: str = ""
    credentials: str = ""
    trust: str = ""

    @property
    def origin(self) -> str:
        """The server's name: a certificate of another server does not count."""
        return re.sub(r"[^a-z0-9.-]+", "_", self.directory.lower().removeprefix("https://")).strip("_")

    @property
    def pair(self) -> Path:
        """The directory in which certbot keeps the certificate that it was given last."""
        return self.state / "config" / "live" / self.origin

    def command(self, names: Sequence[str]) -> list[str]:
        """Return the command that gets a certificate for the names.

        It always gets one: whether it is time is not left to certbot, of which each version has its own idea.
        """
        return [
            *("certbot", "certonly", "--non-interactive", "--agree-tos", "--force-renewal"),
            *("--renew-with-new-domains", "--no-directory-hooks", f"--max-log-backups={KEPT_LOGS}"),
            *(f"--config-dir={self.state}/config", f"--work-dir={self.state}/work"),
            *(f"--logs-dir={self.state}/logs", f"--server={self.directory}", f"--cert-name={self.origin}"),
            *(f"--email={self.email}", "--no-eff-email"),
            *([f"--required-profile={self.profile}"] if self.profile else []),
            *self._method(),
            *(f"--domain={name}" for name in names),
        ]

    def _method(self) -> list[str]:
        if self.method == "http-01":
            return ["--webroot", f"--webroot-path={self.webroot}"]
        return [f"--authenticator={self.method}", f"--{self.method}-credentials={self.credentials}"]

    def issue(self, names: Sequence[str]) -> None:
        """Get a certificate for the names; raises AgentError with what the server said."""
        trust = {"REQUESTS_CA_BUNDLE": self.trust} if self.trust else None
        try:
            run(self.command(names), timeout=ISSUE_SECONDS, env=trust)
        except AgentError as error:
            log = self.state / "logs" / "letsencrypt.log"
            said = problems(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
            raise AgentError("\n".join([*said, str(error)])) from error


def problems(log: str) -> list[str]:
    """Return what an ACME server has complained of, as certbot's log of one run has its answers.

    certbot does not always show it: some versions end with an error of their own when a rate is limited.
    """
    found = [f"{kind}: {json.loads(detail)}" for kind, detail in _PROBLEM.findall(log) if kind != "badNonce"]
    return list(dict.fromkeys(found))
