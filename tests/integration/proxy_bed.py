"""The product's own nginx with the configuration that a deployment renders, between a client and small upstreams.

Everything is in a network namespace of its own, in which the host's addresses, those of the containers and those
of clients are all on the loopback. nginx is that of the image, in a mount and a process namespace, as www-data.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import re
import shlex
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Protocol

from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import load_catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.configs import name_server, render_configs
from ansible_collections.memoryark.ops.plugins.plugin_utils.instances import upstreams
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.settings import variables
from memoryark_lab.authority import ensure_authority
from memoryark_lab.paths import REPO

STACK = REPO / "stack"
PHOTOS, LINE = "photos.church.test", "line.church.test"
SETTINGS = {"memoryark_domain": PHOTOS, "memoryark_line_domain": LINE}
SECRETS = ("internal_api_token", "jwt_secret", "line_channel_access_token", "line_channel_secret")
SERVICES = ("redis", "nginx-proxy", "prometheus", "memoryark-backend", "memoryark-frontend", "line-service")
# A visitor's addresses, and those of somebody else.
VISITOR, OTHER, OPERATOR = "203.0.113.7", "203.0.113.8", "198.51.100.5"
HOUSEHOLD, SAME_HOUSEHOLD, NEIGHBOURS = "2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1"
PROXY = ("192.0.2.10", "2001:db8::10")
BACKEND = "10.89.2.20"
WWW_DATA = 33
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def catalogue(settings: Mapping[str, str] = {}, override: Mapping[str, Any] = {}) -> Catalogue:
    """The catalogue of an inventory with ``settings``."""
    return load_catalogue(
        STACK,
        variables=variables({**SETTINGS, **settings}),
        secrets={*SECRETS, "tls_certificate", "tls_key", "operators"},
        images={name: f"registry.test/{name}@sha256:{'0' * 64}" for name in SERVICES},
        override=override,
    )


@contextmanager
def networks(world: Sequence[str], proxy: Sequence[str]) -> Iterator[str]:
    """Put this thread, and what it starts, into a network with the addresses of ``world``.

    Yields the other network, that of the proxy. The two are joined by a cable.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with _left(own):
        _new_network()
        theirs = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        with _left(theirs):
            inside = f"/proc/{os.getpid()}/fd/{theirs}"
            _new_network()
            _ip("link", "add", "cable", "type", "veth", "peer", "name", "eth0", "netns", inside)
            _plug("cable", world)
            here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            with _left(here):
                _LIBC.setns(theirs, _CLONE_NEWNET)
                _plug("eth0", proxy)
            yield inside


def _new_network() -> None:
    if _LIBC.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace; run as root")


@contextmanager
def _left(descriptor: int) -> Iterator[None]:
    """Go back to the network of ``descriptor`` at the end, and close it."""
    try:
        yield
    finally:
        _LIBC.setns(descriptor, _CLONE_NEWNET)
        os.close(descriptor)


def _plug(interface: str, addresses: Sequence[str]) -> None:
    _ip("link", "set", "lo", "up")
    _ip("link", "set", interface, "up")
    for address in addresses:
        _ip("address", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
    for family in ("-4", "-6"):
        _ip(family, "route", "add", "default", "dev", interface)


@contextmanager
def vanished(address: str) -> Iterator[None]:
    """Nothing answers at an ``address`` of the world, not even that nobody listens there."""
    _ip("address", "delete", f"{address}/32", "dev", "cable")
    try:
        yield
    finally:
        _ip("address", "add", address, "dev", "cable")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


# --- what nginx sends requests to


@dataclass(frozen=True)
class Seen:
    """A request that reached a service; ``target`` and names as they were on the wire."""

    service: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other.lower() == name.lower()]


class Listening(Protocol):
    """What serves behind the proxy."""

    def listening(self, where: Mapping[tuple[str, int], str], /) -> AbstractContextManager[None]:
        """Serve at ``where``: names of services by address and port."""


@dataclass
class Services:
    """Upstreams that remember what they were asked and answer 200; one that is in ``away`` hangs up."""

    seen: list[Seen] = field(default_factory=list)
    away: set[str] = field(default_factory=set)

    def asked(self, mark: str) -> list[Seen]:
        """The requests that have ``mark`` in their target, headers or body."""
        return [one for one in self.seen if mark in f"{one.target} {one.headers} {one.body!r}"]

    @contextmanager
    def listening(self, where: Mapping[tuple[str, int], str]) -> Iterator[None]:
        """Serve at ``where``: names of services by address and port."""
        servers = [
            _Server(place, type("Handler", (_Handler,), {"service": name, "services": self}))
            for place, name in where.items()
        ]
        for server in servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            for server in servers:
                server.shutdown()
                server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: str
    services: Services

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        method, target, _version = self.requestline.split(" ", 2)
        self.services.seen.append(
            Seen(self.service, method, target, tuple(self.headers.items()), self._body())
        )
        if self.service in self.services.away:
            self.close_connection = True
        elif self.headers.get("Upgrade"):
            self.send_response(101)
            self.send_header("Upgrade", self.headers["Upgrade"])
            self.send_header("Connection", "upgrade")
            self.end_headers()
            self.close_connection = True
        else:
            self.send_response(200)
            self.send_header("Content-Length", "3")
            self.send_header("X-Powered-By", "a test")
            self.send_header("X-Frame-Options", "ALLOWALL")
            self.end_headers()
            self.wfile.write(b"ok\n" if method != "HEAD" else b"")

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def names(server: str, known: Mapping[str, str]) -> Iterator[None]:
    """A name server, as a network of Podman has one. Source of the format: RFC 1035, chapter 4."""

    class Handler(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            query = self.rfile.read()
            end = query.index(b"\0", 12) + 5
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            address = known.get(".".join(labels))
            flags, count = (0x8180, 1) if address else (0x8183, 0)
            self.wfile.write(query[:2] + struct.pack(">5H", flags, 1, count, 0, 0) + query[12:end])
            if address:
                self.wfile.write(b"\xc0\x0c" + struct.pack(">2HIH", 1, 1, 0, 4) + socket.inet_aton(address))

    with socketserver.ThreadingUDPServer((server, 53), Handler) as dns:
        threading.Thread(target=dns.serve_forever, daemon=True).start()
        yield
        dns.shutdown()


# --- nginx


@dataclass
class Proxy:
    """nginx-proxy as a container of it runs: ``root`` is that of its image."""

    root: Path
    place: Path
    network: str
    services: Services
    secret: str
    lines: list[str] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def errors(self) -> str:
        """What nginx wrote to its standard error."""
        return (self.place / "stderr").read_text(errors="replace")

    def prepare(self) -> None:
        """Make its secrets and the pipe that takes its log, as Podman does."""
        authority = ensure_authority(self.place / "ca")
        self._certificate = authority.ensure_certificate("edge", [PHOTOS, LINE])
        secret = self.place / "secrets" / "line_channel_secret"
        secret.parent.mkdir()
        secret.write_text(self.secret)
        (self.place / "config").mkdir()
        (self.place / "stderr").touch()
        os.chown(self.place / "stderr", WWW_DATA, WWW_DATA)
        self.place.chmod(0o755)
        reading, self._log = os.pipe()
        os.fchown(self._log, WWW_DATA, WWW_DATA)
        threading.Thread(target=self._read, args=(reading,), daemon=True).start()

    def _read(self, descriptor: int) -> None:
        with open(descriptor, encoding="utf-8", errors="strict") as log:
            for line in log:
                self.lines.append(line)

    def configure(self, settings: Mapping[str, str] = {}, override: Mapping[str, Any] = {}) -> None:
        """Write the configuration of an inventory with ``settings``."""
        made = catalogue(settings, override)
        configs = render_configs(STACK, made, variables({**SETTINGS, **settings}))["nginx-proxy"]
        for name, text in configs.items():
            (self.place / "config" / name).write_text(text)

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        root = shlex.quote(str(self.root))
        certificate, key = self._certificate_paths()
        install = f"install -D --owner={WWW_DATA} --mode=0400"
        script = f"""
            mount --bind {shlex.quote(str(self.place / "config"))} {root}/etc/memoryark
            mount -t tmpfs tmpfs {root}/run
            mkdir {root}/run/secrets
            mount --bind {shlex.quote(str(self.place / "secrets"))} {root}/run/secrets
            mount -t tmpfs tmpfs {root}/srv
            {install} {shlex.quote(str(self._certificate.certificate))} {root}{certificate}
            {install} {shlex.quote(str(self._certificate.key))} {root}{key}
            mount -t tmpfs -o mode=1777 tmpfs {root}/tmp
            mount -t proc proc {root}/proc
            mount --rbind /dev {root}/dev
            exec chroot --userspec={WWW_DATA}:{WWW_DATA} {root} \
                nginx -e stderr -c /etc/memoryark/nginx.conf -g "daemon off;"
        """
        with (self.place / "stderr").open("ab") as errors:
            self._process = subprocess.Popen(
                [
                    *("nsenter", f"--net={self.network}"),
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", script),
                ],
                stdout=self._log,
                stderr=errors,
            )
        deadline = time.monotonic() + 20
        while not listens(8443):
            assert self._process.poll() is None, self.errors
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.05)

    def _certificate_paths(self) -> tuple[str, str]:
        """Where the configuration expects certificate and key."""
        text = (self.place / "config" / "nginx.conf").read_text()
        found = dict(re.findall(r"^ *(ssl_certificate(?:_key)?) (\S+);", text, re.MULTILINE))
        return found["ssl_certificate"], found["ssl_certificate_key"]

    @property
    def _first(self) -> int:
        """nginx's main process, which is the first in its namespace."""
        assert self._process is not None
        return children(self._process.pid)[0]

    @property
    def inside(self) -> Path:
        """The root of its file system, with all that is mounted there."""
        return Path(f"/proc/{self._first}/root")

    def command(self, *program: str) -> list[str]:
        """The command line that runs a program beside it, as ``podman exec`` does."""
        enter = ["nsenter", f"--target={self._first}", "--mount", "--pid", "--net"]
        return [*enter, "chroot", f"--userspec={WWW_DATA}:{WWW_DATA}", str(self.root), *program]

    def reload(self) -> None:
        """Run the image's own `nginx-reload`, as a deployment does."""
        subprocess.run(self.command("nginx-reload"), check=True, timeout=60)

    def stop(self) -> None:
        """Stop it as systemd does: it ends what it has begun."""
        if self._process is not None:
            os.kill(self._first, signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def entries(self, mark: str, count: int) -> list[dict[str, Any]]:
        """The lines of the access log with ``mark`` in them, once there are ``count``, each as JSON."""
        deadline = time.monotonic() + 10
        while len(found := [line for line in self.lines if mark in line]) < count:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return [json.loads(line) for line in found]

    # --- visitors

    def connect(self, name: str = PHOTOS, source: str = VISITOR, timeout: float = 20) -> ssl.SSLSocket:
        """A TLS connection from an address, to the server under a name."""
        context = ssl.create_default_context(cafile=str(self.place / "ca" / "ca.pem"))
        server = PROXY[1] if ":" in source else PROXY[0]
        plain = socket.create_connection((server, 8443), timeout=timeout, source_address=(source, 0))
        return context.wrap_socket(plain, server_hostname=name)

    def send(self, raw: bytes, name: str = PHOTOS, source: str = VISITOR, timeout: float = 20) -> Answer:
        """Send bytes and read one answer."""
        with self.connect(name, source, timeout) as connection:
            # It may have answered and hung up before it has read everything.
            with suppress(OSError):
                connection.sendall(raw)
            return read_answer(connection, raw.partition(b" ")[0].decode())

    def ask(
        self,
        target: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        method: str = "GET",
        name: str = PHOTOS,
        body: bytes = b"",
        source: str = VISITOR,
    ) -> Answer:
        """Send a request as it should be, but for what the caller puts into it."""
        return self.send(request(target, headers, method=method, name=name, body=body), name, source)


@dataclass(frozen=True)
class Answer:
    """``status`` 0 means that the server hung up without one."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def request(
    target: str,
    headers: Sequence[tuple[str, str]] = (),
    *,
    method: str = "GET",
    name: str = PHOTOS,
    body: bytes = b"",
) -> bytes:
    """A request of HTTP/1.1 as bytes."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {name}", *(f"{key}: {value}" for key, value in headers)]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def read_answer(connection: socket.socket, method: str = "GET") -> Answer:
    """Read one answer; that to HEAD has no body."""
    response = http.client.HTTPResponse(connection, method=method)
    try:
        response.begin()
        headers = {key.lower(): value for key, value in response.headers.items()}
        return Answer(response.status, headers, response.read())
    except (OSError, http.client.HTTPException):
        return Answer(0)
    finally:
        response.close()


def listens(port: int) -> bool:
    """Whether the proxy takes connections at a port."""
    try:
        socket.create_connection((PROXY[0], port), timeout=1).close()
    except OSError:
        return False
    return True


def children(pid: int) -> list[int]:
    """The processes that another one has started, such as what ``nsenter --pid`` runs."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def seeing(file: Path, target: str, command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` with ``file`` in the place of the file ``target``, for it alone."""
    inside = 'mount --bind "$0" "$1"; shift; exec "$@"'
    return ["unshare", "--mount", "sh", "-euc", inside, str(file), target, *command]


@contextmanager
def running(root: Path, place: Path, secret: str, services: Listening | None = None) -> Iterator[Proxy]:
    """The proxy and all around it, with ``services`` behind it that are not those that remember."""
    made, remembering = catalogue(), Services()
    dns = name_server(made.networks["backend"])
    where = {(BACKEND, 8081): "memoryark-backend"}
    for upstream in upstreams(made.services["nginx-proxy"], made):
        for address, instance in upstream.servers:
            if not instance.surge:
                where[address, upstream.port] = upstream.name.removesuffix(f"-{upstream.port}")
    world = [VISITOR, OTHER, OPERATOR, HOUSEHOLD, SAME_HOUSEHOLD, NEIGHBOURS, dns]
    world += [address for address, _port in where]
    with (
        networks(world, PROXY) as network,
        names(dns, {"memoryark-backend": BACKEND}),
        (services or remembering).listening(where),
    ):
        proxy = Proxy(root, place, network, remembering, secret)
        proxy.prepare()
        proxy.configure()
        proxy.start()
        try:
            yield proxy
        finally:
            proxy.stop()
