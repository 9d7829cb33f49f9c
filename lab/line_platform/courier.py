"""Carrying webhooks to their receivers, and what LINE would say about how it went."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from socket import AddressFamily
from types import SimpleNamespace
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from line_platform.errors import ControlError
from line_platform.sending import Parcel

Reason = Literal["OK", "COULD_NOT_CONNECT", "REQUEST_TIMEOUT", "ERROR_STATUS_CODE", "UNCLASSIFIED"]
MAX_ANSWER = 65536


@dataclass(frozen=True)
class Outcome:
    """How a webhook went: ``status`` is 0 without an answer, ``reason`` and ``detail`` as LINE names them."""

    status: int
    reason: Reason
    detail: str
    latency_seconds: float
    body: str = ""

    @property
    def success(self) -> bool:
        """Whether LINE counts the webhook as delivered."""
        return self.reason == "OK"


def classify(status: int) -> Reason:
    """LINE takes any 2xx for success and follows no redirection."""
    return "OK" if 200 <= status < 300 else "ERROR_STATUS_CODE"


class FixedResolver(AbstractResolver):
    """Knows the names it was told and this machine, and asks nobody else.

    A webhook of the lab can thus never leave the lab, whatever URL a test sets.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = {"localhost": "127.0.0.1", **{name.lower(): value for name, value in names.items()}}

    def knows(self, host: str) -> bool:
        """Whether the name, or address, can be reached at all."""
        return host.lower() in self._names or _is_address(host)

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AddressFamily.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Look a name up; raises OSError for an unknown one."""
        address = self._names.get(host.lower())
        if address is None:
            raise OSError(f"name {host!r} is not known to the stand-in")
        kind = AddressFamily.AF_INET6 if ":" in address else AddressFamily.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing to close."""


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


class Courier:
    """Sends webhooks. ``ca`` is the authority to trust for https; without it none is trusted."""

    def __init__(self, names: Mapping[str, str], ca: Path | None) -> None:
        self.resolver = FixedResolver(names)
        self._tls = _trust(ca)

    def reaches(self, endpoint: str) -> bool:
        """Whether the host of a URL can be resolved."""
        return self.resolver.knows(urlsplit(endpoint).hostname or "")

    async def deliver(self, parcel: Parcel) -> Outcome:
        """Send a webhook and wait for the answer until its deadline; never raises for a bad receiver.

        Every webhook goes over a connection of its own, so that the time to connect counts and no
        receiver is spared by one that is still open.
        """
        connected = _Connected()
        begun = time.monotonic()
        connector = aiohttp.TCPConnector(resolver=self.resolver, ssl=self._tls, force_close=True)
        timeout = aiohttp.ClientTimeout(total=parcel.deadline_seconds)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector, timeout=timeout, trace_configs=[connected.trace()], trust_env=False
                ) as session,
                session.post(
                    parcel.endpoint, data=parcel.body, headers=parcel.headers, allow_redirects=False
                ) as response,
            ):
                body = await response.content.read(MAX_ANSWER)
                status, reason, detail = response.status, classify(response.status), str(response.status)
                text = body.decode("utf-8", "replace")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            status, text = 0, ""
            reason, detail = explain(error, connected.done, parcel.endpoint)
        return Outcome(status, reason, detail, round(time.monotonic() - begun, 4), text)


def explain(error: Exception, connected: bool, endpoint: str) -> tuple[Reason, str]:
    """Name a failure as LINE does: reason and detail."""
    match error:
        case TimeoutError() if connected:
            return "REQUEST_TIMEOUT", "Request timeout"
        case aiohttp.ClientConnectorSSLError() | aiohttp.ClientConnectorCertificateError():
            return "COULD_NOT_CONNECT", f"TLS handshake failure: {endpoint}"
        case TimeoutError() | aiohttp.ClientConnectorError():
            return "COULD_NOT_CONNECT", f"Connection failed: {endpoint}"
        case _:
            # LINE gives no detail here; the kind of error helps whoever reads a failed test.
            return "UNCLASSIFIED", type(error).__name__


class _Connected:
    """Remembers whether a request got as far as a connection."""

    def __init__(self) -> None:
        self.done = False

    def trace(self) -> aiohttp.TraceConfig:
        async def note(
            session: aiohttp.ClientSession,
            context: SimpleNamespace,
            params: aiohttp.TraceConnectionCreateEndParams,
        ) -> None:
            self.done = True

        config = aiohttp.TraceConfig()
        config.on_connection_create_end.append(note)
        return config


def _trust(ca: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # LINE speaks TLS 1.2 and 1.3 only, and refuses what no trusted authority signed.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise ControlError(f"cannot read the authority {ca}: {error}") from None
    return context
