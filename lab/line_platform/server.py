"""The stand-in as a whole: the public API on TCP, the control interface on a unix socket."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from line_platform.api import LOOPBACK, World
from line_platform.control import ControlApi
from line_platform.courier import Courier
from line_platform.errors import ControlError
from line_platform.faults import FaultBook
from line_platform.journal import Journal
from line_platform.platform import Platform
from line_platform.post_office import PostOffice
from line_platform.public import PublicApi

# Linux: sockaddr_un.sun_path holds 108 bytes with the final zero.
MAX_SOCKET_PATH = 107


@dataclass(frozen=True)
class Options:
    """How to run. Without ``certificate`` the API speaks plain HTTP, and then on loopback only.

    ``port`` 0 takes a free one, which ``Control.status`` tells. ``names`` are the names that
    webhooks may go to, with their addresses.
    """

    state: Path
    host: str = "127.0.0.1"
    port: int = 0
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    socket: Path | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def control_socket(self) -> Path:
        """Where the control interface listens."""
        return self.socket or self.state / "control.sock"


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[str]:
    """Run the stand-in; yields ``address:port`` of the public API.

    Raises ControlError when it cannot start, with what to change.
    """
    tls = _tls(options)
    socket = options.control_socket
    if len(str(socket).encode()) > MAX_SOCKET_PATH:
        raise ControlError(f"the path {socket} is too long for a socket (at most {MAX_SOCKET_PATH} bytes)")
    options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    listening: list[str] = []
    platform, faults = Platform(), FaultBook()
    post = PostOffice(platform, Courier(options.names, options.ca))
    journal = Journal(options.state / "requests.jsonl")
    world = World(platform, any_host=tls is None, plain_endpoints=tls is None)
    public = web.AppRunner(PublicApi(world, faults, journal, post).application(), access_log=None)
    control = web.AppRunner(
        ControlApi(platform, faults, journal, post, lambda: listening[0]).application(), access_log=None
    )
    try:
        await public.setup()
        await _start(web.TCPSite(public, options.host, options.port, ssl_context=tls))
        host, port = public.addresses[0][:2]
        listening.append(f"{host}:{port}")
        await control.setup()
        # aiohttp replaces a socket that a killed run has left behind.
        await _start(web.UnixSite(control, socket))
        socket.chmod(0o600)
        yield listening[0]
    finally:
        await post.reset()
        await control.cleanup()
        await public.cleanup()
        journal.close()
        if listening:
            socket.unlink(missing_ok=True)


async def _start(site: web.BaseSite) -> None:
    try:
        await site.start()
    except OSError as error:
        raise ControlError(f"cannot listen on {site.name}: {error.strerror or error}") from None


def _tls(options: Options) -> ssl.SSLContext | None:
    """The server's side of TLS, or None for plain HTTP."""
    if (options.certificate is None) != (options.key is None):
        raise ControlError("give both a certificate and its key, or neither")
    if options.certificate is None:
        if options.host not in LOOPBACK:
            raise ControlError(f"plain HTTP is for loopback only: {options.host} needs a certificate")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.certificate, options.key)
    except (OSError, ssl.SSLError) as error:
        raise ControlError(f"cannot use certificate {options.certificate}: {error}") from None
    return context
