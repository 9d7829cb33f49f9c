"""The certificate of the proxy with a real ACME server, pebble, that validates by a real nginx on loopback."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.zipapp import pack
from memoryark_agent import pairs
from memoryark_lab.authority import ensure_authority
from memoryark_lab.paths import REPO

NAMES = ["photos.ark.test", "line.ark.test"]
DAY = 86_400
NGINX = """\
user {user};
worker_processes 2;
daemon off;
pid {place}/nginx.pid;
error_log {place}/nginx.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {place}/nginx-body;
    proxy_temp_path {place}/nginx-proxy;
    fastcgi_temp_path {place}/nginx-fastcgi;
    uwsgi_temp_path {place}/nginx-uwsgi;
    scgi_temp_path {place}/nginx-scgi;
    server {{
        listen 127.0.0.1:{http};
        location /.well-known/acme-challenge/ {{ root {place}/webroot; }}
        location / {{ return 308 https://$host$request_uri; }}
    }}
    server {{
        listen 127.0.0.1:{https} ssl;
        ssl_certificate {place}/tls/current/fullchain.pem;
        ssl_certificate_key {place}/tls/current/privkey.pem;
        location / {{ return 200 "served\\n"; }}
    }}
}}
"""


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def await_true(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def program(*command: str, port: int, log: Path, env: dict[str, str] | None = None) -> Iterator[None]:
    """A program that listens on ``port``."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
        try:
            await_true(
                lambda: process.poll() is not None or listens(port), f"{command[0]}: {log.read_text()}"
            )
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(20)


class Gate(ThreadingHTTPServer):
    """Stands before the ACME server: passes requests on, or answers as one that has had enough of them."""

    daemon_threads = True

    def __init__(self, upstream: int, identity: ssl.SSLContext, client: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), GateRequest)
        self.upstream, self.client = upstream, client
        self.limited = False
        self.orders = 0
        self.socket = identity.wrap_socket(self.socket, server_side=True)


class GateRequest(BaseHTTPRequestHandler):
    """One request; the path of new orders is pebble's own."""

    server: Gate

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        order = self.path == "/order-plz"
        self.server.orders += order
        if order and self.server.limited:
            self.answer(429, [("Retry-After", "3600"), ("Content-Type", "application/problem+json")], LIMIT)
            return
        upstream = http.client.HTTPSConnection("localhost", self.server.upstream, context=self.server.client)
        try:
            upstream.request(self.command, self.path, body or None, dict(self.headers))
            given = upstream.getresponse()
            content = given.read()
        except OSError:
            self.answer(502, [], b"")
        else:
            kept = [pair for pair in given.getheaders() if pair[0].lower() not in HOP]
            self.answer(given.status, kept, content)
        finally:
            upstream.close()

    do_GET = do_POST = do_HEAD = handle_any

    def answer(self, code: int, headers: Sequence[tuple[str, str]], content: bytes) -> None:
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


HOP = ("connection", "content-length", "date", "transfer-encoding")
# RFC 8555, section 6.6.
LIMIT = json.dumps(
    {
        "type": "urn:ietf:params:acme:error:rateLimited",
        "detail": "too many certificates already issued for this set of names",
        "status": 429,
    }
).encode()


@dataclass
class Acme:
    """An ACME server whose directory is at ``port``, and the name server that it asks."""

    gate: Gate
    names: int
    stop: Callable[[], None]

    @property
    def directory(self) -> str:
        return f"https://localhost:{self.gate.server_address[1]}/dir"

    def resolve(self, host: str, *addresses: str) -> None:
        """Let a host name have these addresses, 127.0.0.1 without any."""
        connection = http.client.HTTPConnection("127.0.0.1", self.names, timeout=10)
        body = json.dumps({"host": host, "addresses": addresses})
        connection.request("POST", "/add-a" if addresses else "/clear-a", body)
        assert connection.getresponse().status == 200
        connection.close()


@contextmanager
def acme_server(place: Path, http_port: int, life: int) -> Iterator[Acme]:
    """An ACME server that visits ``http_port`` and issues for ``life`` seconds."""
    api, management, dns, names, unused = free_ports(5)
    authority = ensure_authority(place / "authority")
    pair = authority.ensure_certificate("acme", ["localhost"])
    identity = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity.load_cert_chain(pair.certificate, pair.key)
    config = {
        "listenAddress": f"127.0.0.1:{api}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(pair.certificate),
        "privateKey": str(pair.key),
        "httpPort": http_port,
        "tlsPort": unused,
        "certificateValidityPeriod": life,
    }
    (place / "pebble.json").write_text(json.dumps({"pebble": config}))
    env = {
        "PEBBLE_VA_NOSLEEP": "1",
        # An earlier validation would hide that a name leads to another host now.
        "PEBBLE_AUTHZREUSE": "0",
        "PEBBLE_WFE_NONCEREJECT": "0",
    }
    dns_server = ["pebble-challtestsrv", "-http01=", "-https01=", "-tlsalpn01=", "-defaultIPv6="]
    dns_server += [f"-dns01=127.0.0.1:{dns}", f"-management=127.0.0.1:{names}"]
    pebble = ["pebble", f"-config={place / 'pebble.json'}", "-strict", f"-dnsserver=127.0.0.1:{dns}"]
    client = ssl.create_default_context(cafile=authority.certificate)
    with program(*dns_server, port=names, log=place / "dns.log"), ExitStack() as server:
        server.enter_context(program(*pebble, port=api, log=place / "pebble.log", env=env))
        gate = Gate(api, identity, client)
        thread = threading.Thread(target=gate.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield Acme(gate, names, server.close)
        finally:
            gate.shutdown()
            thread.join()
            gate.server_close()


@dataclass
class Host:
    """A server of the archive, as far as its certificate goes."""

    place: Path
    https: int
    acme: Acme
    program: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the agent as the host does."""
        command = [sys.executable, "-I", "-B", str(self.program), f"--settings={self.place}/settings.json"]
        return subprocess.run(
            [*command, "certificates", *words], capture_output=True, text=True, check=False, timeout=180
        )

    def done(self, *words: str) -> str:
        """Run it and return what it says."""
        ended = self.run(*words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def failed(self, *words: str) -> str:
        """Run it, see it fail, and return what it says."""
        ended = self.run(*words)
        assert ended.returncode == 1, ended.stdout
        assert self.metric("last_attempt_timestamp_seconds") > self.metric("last_success_timestamp_seconds")
        return ended.stderr

    def settings(self, **changes: object) -> None:
        """Write the settings, as the role does."""
        raw = {
            "names": NAMES,
            "method": "http-01",
            "webroot": str(self.place / "webroot"),
            "acme": {
                "directory": self.acme.directory,
                "email": "admin@ark.test",
                "trust": str(self.place / "authority" / "ca.pem"),
            },
            "store": str(self.place / "tls"),
            "group": os.getgid(),
            "proxy": {
                "test": ["nginx", "-t", "-q", "-c", str(self.place / "nginx.conf")],
                "reload": ["nginx", "-s", "reload", "-c", str(self.place / "nginx.conf")],
                "port": self.https,
                "patience": 20,
            },
            "state": str(self.place / "state"),
            "metrics": str(self.place / "certificates.prom"),
        }
        (self.place / "settings.json").write_text(json.dumps(raw | changes))

    def served(self, name: str = NAMES[0]) -> str:
        """Return the fingerprint of what is served."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.https), timeout=20) as connection,
            context.wrap_socket(connection, server_hostname=name) as channel,
        ):
            channel.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b"served" in b"".join(iter(lambda: channel.recv(4096), b""))
            return pairs.fingerprint(channel.getpeercert(binary_form=True) or b"")

    def metric(self, name: str) -> float:
        lines = (self.place / "certificates.prom").read_text().splitlines()
        return next(
            float(line.split()[1]) for line in lines if line.startswith(f"memoryark_certificate_{name} ")
        )


@contextmanager
def archive(place: Path, life: int = 90 * DAY) -> Iterator[Host]:
    """A host with nginx on its placeholder, and an ACME server that issues for ``life`` seconds."""
    http_port, https = free_ports(2)
    for name in ("tls", "state", "webroot"):
        (place / name).mkdir()
    (place / "agent").write_bytes(pack(REPO / "agent" / "memoryark_agent"))
    user = "root" if os.geteuid() == 0 else "nobody"
    (place / "nginx.conf").write_text(NGINX.format(place=place, http=http_port, https=https, user=user))
    nginx = ["nginx", "-e", str(place / "nginx.log"), "-c", str(place / "nginx.conf")]
    with acme_server(place, http_port, life) as acme:
        host = Host(place, https, acme, place / "agent")
        host.settings()
        assert host.done("prepare").startswith("changed")
        with program(*nginx, port=https, log=place / "nginx.out"):
            yield host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host with a certificate that is good for long."""
    with archive(tmp_path) as made:
        assert "placeholder" in made.run("check").stderr
        assert made.done("renew").startswith("changed: a new one is issued: there is none yet")
        yield made


def test_a_certificate_is_issued_served_and_left_alone(host: Host) -> None:
    first = host.served()
    assert host.served(NAMES[1]) == first == pairs.read(host.place / "tls" / "current").fingerprint
    assert host.done("check") == "The right certificate is served."
    assert host.done("renew") == "unchanged"
    assert (host.served(), host.acme.gate.orders) == (first, 1)
    assert 89 * DAY < host.metric("expiry_timestamp_seconds") - time.time() < 91 * DAY
    assert (host.metric("served"), host.metric("placeholder")) == (1, 0)
    assert "The proxy serves it." in host.done("status")


class Load:
    """Visitors who come one after the other, each with a connection of its own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.seen: Counter[str] = Counter()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._visit) for _ in range(4)]

    def _visit(self) -> None:
        while not self._end.is_set():
            try:
                self.seen[self.host.served()] += 1
            except (OSError, AssertionError) as error:
                self.seen[f"failed: {error!r}"] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def test_a_new_certificate_is_served_without_a_failed_request(host: Host) -> None:
    before = host.served()
    with Load(host) as load:
        await_true(lambda: load.seen[before] > 50, "nobody is served")
        assert host.done("renew", "--force").startswith("changed: a new one is issued: it is asked for")
        after = host.served()
        enough = load.seen[after] + 50
        await_true(lambda: load.seen[after] > enough, "nobody is served")
    assert after != before
    assert set(load.seen) == {before, after}, load.seen


def test_a_certificate_is_renewed_by_its_age(tmp_path: Path) -> None:
    life = 60
    with archive(tmp_path, life) as host:
        host.done("renew")
        first = host.served()
        begun = host.metric("expiry_timestamp_seconds") - life
        answers = [host.done("renew")]

        def renewed() -> bool:
            answers.append(host.done("renew"))
            return answers[-1] != "unchanged"

        await_true(renewed, "not renewed")
        assert time.time() >= begun + life / 2, "half of a short life has to be over"
        assert answers[0] == "unchanged"
        assert answers[-1].startswith("changed: a new one is issued: it expires on")
        assert host.served() != first
        assert host.metric("expiry_timestamp_seconds") > begun + life


def wrong_address(host: Host) -> None:
    # Nothing listens there.
    host.acme.resolve(NAMES[1], "127.0.0.2")


def validation_fails(host: Host) -> None:
    host.settings(webroot=str(host.place / "elsewhere"))
    (host.place / "elsewhere").mkdir()


def server_down(host: Host) -> None:
    host.acme.stop()


def rate_limited(host: Host) -> None:
    host.acme.gate.limited = True


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (wrong_address, "line.ark.test"),
        (validation_fails, "404"),
        (server_down, "502"),
        (rate_limited, "too many certificates already issued"),
    ],
)
def test_when_none_can_be_had_the_old_one_is_served(
    host: Host, trouble: Callable[[Host], None], said: str
) -> None:
    before = host.served()
    succeeded = host.metric("last_success_timestamp_seconds")
    trouble(host)
    assert said in host.failed("renew", "--force")
    assert host.served() == before
    assert host.metric("served") == 1
    assert host.metric("last_success_timestamp_seconds") == succeeded
    assert said in host.done("status"), "the operator is told"
    if trouble is not server_down:
        host.settings()
        host.acme.resolve(NAMES[1])
        host.acme.gate.limited = False
        assert host.done("renew", "--force").startswith("changed")
        assert host.served() != before


def test_a_proxy_that_refuses_its_configuration_keeps_the_old_one(host: Host) -> None:
    before = host.served()
    conf = host.place / "nginx.conf"
    good = conf.read_text()
    conf.write_text(good.replace("worker_processes 2;", "worker_processes many;"))
    assert "nginx failed" in host.failed("renew", "--force")
    assert host.served() == before == pairs.read(host.place / "tls" / "current").fingerprint
    conf.write_text(good)
    orders = host.acme.gate.orders
    assert host.done("renew") == "changed: it is given to the proxy: the proxy has another certificate"
    assert host.served() != before
    assert host.acme.gate.orders == orders, "the one that was issued is used"


def test_a_proxy_that_was_not_told_is_found_and_told(host: Host) -> None:
    """As after a restore of the directory from a backup, or a reload that got lost."""
    before = host.served()
    proxy = json.loads((host.place / "settings.json").read_text())["proxy"]
    host.settings(proxy={**proxy, "reload": ["true"], "patience": 1})
    assert "does not serve the certificate" in host.failed("renew", "--force")
    host.settings()
    assert host.done("deploy").startswith("changed: it is given to the proxy")
    assert host.served() != before


def test_a_new_name_gets_into_the_certificate(host: Host) -> None:
    host.settings(names=[*NAMES, "new.ark.test"])
    assert "not for new.ark.test" in host.run("check").stderr
    assert "it is not for new.ark.test" in host.done("renew")
    assert pairs.read(host.place / "tls" / "current").names == {*NAMES, "new.ark.test"}


def test_the_own_certificate_of_the_operator_takes_over(host: Host) -> None:
    authority = ensure_authority(host.place / "authority")
    made = authority.ensure_certificate("own", NAMES)
    own = host.place / "own"
    own.mkdir()
    made.certificate.rename(own / pairs.CHAIN)
    made.key.rename(own / pairs.KEY)
    host.settings(method="own", own=str(own))
    assert host.done("deploy").startswith("changed")
    assert host.served() == pairs.read(own).fingerprint
    assert host.done("check") == "The right certificate is served."
