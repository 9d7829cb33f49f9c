"""What visitors can and cannot do to the services behind the product's own nginx and configuration."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import itertools
import json
import re
import select
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.edge import FORGEABLE_HEADERS, IDENTITY_HEADER
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from memoryark_lab import images
from memoryark_lab.progress import Progress
from passlib.hash import sha512_crypt

from tests.integration import proxy_bed
from tests.integration.proxy_bed import (
    HOUSEHOLD,
    LINE,
    NEIGHBOURS,
    OPERATOR,
    OTHER,
    PHOTOS,
    PROXY,
    SAME_HOUSEHOLD,
    VISITOR,
    Proxy,
    read_answer,
    request,
)

SECRET = "0123456789abcdef" * 2
WEBHOOK = "/webhook/line"
MEBIBYTE = 2**20
EVENTS = '{"destination":"U0","events":[{"type":"message","message":{"text":"照片"}}]}'.encode()
Headers = list[tuple[str, str]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with (
        images.root_of("nginx-proxy", Progress(total=1)) as root,
        proxy_bed.running(root, tmp_path_factory.mktemp("proxy"), SECRET) as bed,
    ):
        yield bed


_numbers = itertools.count()


@pytest.fixture
def mark() -> str:
    """What only the requests of one test have in them."""
    return f"mark-{next(_numbers)}-"


@pytest.fixture
def proxy(running: Proxy) -> Proxy:
    """The proxy as nobody has asked it yet."""
    running.services.seen.clear()
    return running


@contextlib.contextmanager
def inventory(proxy: Proxy, *arguments: Mapping[str, object]) -> Iterator[None]:
    """The proxy with other settings for a while."""
    proxy.configure(*arguments)  # type: ignore[arg-type]
    proxy.reload()
    try:
        yield
    finally:
        proxy.configure()
        proxy.reload()


def sign(body: bytes, secret: str = SECRET) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


# --- LINE's webhook


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (EVENTS, 200),
        (b'{"destination":"U0","events":[]}', 200),
        (b"{ }\r\n\0\xff", 200),
        (b"x" * MEBIBYTE, 200),
        (b"x" * (MEBIBYTE + 1), 413),
        (b"x" * (20 * MEBIBYTE), 413),
    ],
    ids=["events", "no events", "any bytes", "the largest", "one byte too many", "far too large"],
)
@pytest.mark.parametrize("chunk", [0, 65536], ids=["whole", "in chunks"])
def test_what_line_has_signed_reaches_the_bot_as_it_was_sent(
    proxy: Proxy, body: bytes, status: int, chunk: int
) -> None:
    headers = [("x-line-signature", sign(body))]
    if chunk:
        head = request(WEBHOOK, [*headers, ("Transfer-Encoding", "chunked")], method="POST", name=LINE)
        answer = proxy.send(head + chunked(body, chunk), LINE)
    else:
        answer = proxy.ask(WEBHOOK, headers, method="POST", name=LINE, body=body)
    # nginx may give up reading and hang up before the client has sent all of it.
    assert answer.status in ({200} if status == 200 else {413, 0})
    assert [one.body for one in proxy.services.seen] == ([body] if status == 200 else [])


@pytest.mark.parametrize(("size", "chunk"), [(MEBIBYTE, 1000), (MEBIBYTE // 2, 1)])
def test_a_body_in_many_chunks_is_checked_or_refused(proxy: Proxy, size: int, chunk: int) -> None:
    """Their frames need room as well, and LINE sends no chunks."""
    body = b"x" * size
    for signature, wanted in ((sign(body), {200, 413}), (sign(b"other"), {401, 413})):
        headers = [("x-line-signature", signature), ("Transfer-Encoding", "chunked")]
        head = request(WEBHOOK, headers, method="POST", name=LINE)
        assert proxy.send(head + chunked(body, chunk), LINE).status in wanted
    assert all(one.body == body for one in proxy.services.seen)
    assert len(proxy.services.seen) <= 1


GOOD = sign(EVENTS)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-line-signature", "")],
        [("x-line-signature", sign(EVENTS, "f" * 32))],
        [("x-line-signature", sign(EVENTS + b" "))],
        [("x-line-signature", sign(b""))],
        [("x-line-signature", GOOD[:-1])],
        [("x-line-signature", GOOD[:-4])],
        [("x-line-signature", GOOD + "=")],
        [("x-line-signature", GOOD + "A" * 3000)],
        [("x-line-signature", GOOD.lower())],
        [("x-line-signature", base64.b64decode(GOOD).hex())],
        [("x-line-signature", f'"{GOOD}"')],
        [("x-line-signature", f"\xff{GOOD[1:]}")],
        [("x-line-signature", GOOD), ("x-line-signature", sign(b"other"))],
        [("x-line-signature", sign(b"other")), ("x-line-signature", GOOD)],
        [("x_line_signature", GOOD)],
        [("x-line-signature-", GOOD)],
    ],
)
def test_what_line_has_not_signed_never_reaches_the_bot(proxy: Proxy, headers: Headers) -> None:
    answer = proxy.ask(WEBHOOK, headers, method="POST", name=LINE, body=EVENTS)
    assert answer.status == 401
    assert proxy.services.seen == []


def test_the_name_of_the_signature_is_of_any_case(proxy: Proxy) -> None:
    assert (
        proxy.ask(WEBHOOK, [("X-Line-SIGNATURE", GOOD)], method="POST", name=LINE, body=EVENTS).status == 200
    )


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_posts_are_webhooks(proxy: Proxy, method: str) -> None:
    answer = proxy.ask(WEBHOOK, [("x-line-signature", sign(b""))], method=method, name=LINE)
    assert answer.status == 405
    assert proxy.services.seen == []


def test_a_bot_that_is_away_is_no_wrong_signature(proxy: Proxy) -> None:
    proxy.services.away.add("line-service")
    try:
        answer = proxy.ask(WEBHOOK, [("x-line-signature", GOOD)], method="POST", name=LINE, body=EVENTS)
    finally:
        proxy.services.away.clear()
    assert (answer.status, answer.headers.get("retry-after")) == (503, "10")


def test_a_service_that_has_vanished_keeps_nobody_waiting(proxy: Proxy) -> None:
    """As while its container is made anew: its name is still known, and its address answers nothing."""
    assert proxy.ask("/api/files").status == 200
    with proxy_bed.vanished(proxy_bed.BACKEND):
        answer = proxy.send(request("/api/files", []), timeout=5)
    assert (answer.status, answer.headers.get("retry-after")) == (503, "10")
    assert proxy.ask("/api/files").status == 200


# --- who somebody is


def spellings(name: str) -> list[str]:
    return [
        name,
        name.lower(),
        name.upper(),
        name.swapcase(),
        name.replace("-", "_"),
        name.replace("-", "_", 1),
    ]


@pytest.mark.parametrize("http", ["--http1.1", "--http2"])
@pytest.mark.parametrize("target", ["/", "/api/files"])
def test_no_header_that_says_who_somebody_is_comes_through(proxy: Proxy, http: str, target: str) -> None:
    forged = [
        f"{spelling}: forged"
        for name in (*FORGEABLE_HEADERS, IDENTITY_HEADER)
        for spelling in spellings(name)
    ]
    forged += [f"{name}: forged" for name in ("X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto")]
    forged += ["X-Request-Id: forged"]
    for some in (forged[at : at + 80] for at in range(0, len(forged), 80)):
        options = [part for header in some for part in ("--header", header)]
        assert curl(proxy, f"https://{PHOTOS}{target}", http, *options) == 200
    assert len(proxy.services.seen) >= 2
    for one in proxy.services.seen:
        assert [header for header in one.headers if "forged" in header[1]] == []
        assert one.header("X-Forwarded-For") == one.header("X-Real-IP") == [VISITOR]


def curl(proxy: Proxy, url: str, *options: str) -> int:
    known = [part for name in (PHOTOS, LINE) for part in ("--resolve", f"{name}:443:{PROXY[0]}")]
    known += ["--connect-to", f"::{PROXY[0]}:8443", "--cacert", str(proxy.place / "ca" / "ca.pem")]
    shown = ["--silent", "--max-time", "20", "--interface", VISITOR, "--output", "/dev/null"]
    command = ["curl", *known, *shown, "--write-out", "%{http_code}", *options, url]
    return int(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


@pytest.mark.parametrize(
    "line",
    [
        "CF-Access-Authenticated-User-Email : forged",
        "CF-Access-Authenticated-User-Email\t: forged",
        "CF-Access-Authenticated-User-Email:\r\n forged",
        "X-Other: a\r\n CF-Access-Authenticated-User-Email: forged",
        "X-Other: a\nCF-Access-Authenticated-User-Email: forged",
        "X-Other: a\rCF-Access-Authenticated-User-Email: forged",
        "\x0bCF-Access-Authenticated-User-Email: forged",
        "CF-Access-Authenticated-User-Email\0: forged",
        "X-Other: a\0\r\nCF-Access-Authenticated-User-Email: forged",
        ":CF-Access-Authenticated-User-Email: forged",
        "CF-Access-Authenticated-User-Email: forged\r\nCF-Access-Authenticated-User-Email: forged",
        "Connection: X-Forwarded-For, X-Real-IP\r\nCF-Access-Authenticated-User-Email: forged",
        "CF.Access.Authenticated.User.Email: forged",
    ],
)
def test_no_odd_line_makes_a_header_of_its_own(proxy: Proxy, line: str) -> None:
    raw = f"GET /api/files HTTP/1.1\r\nHost: {PHOTOS}\r\n{line}\r\n\r\n".encode("latin-1")
    assert proxy.send(raw).status in {200, 400}
    for one in proxy.services.seen:
        # In a value it says nothing; what counts is the name as a lenient program would read it.
        meant = [name.strip().lower().replace("_", "-").replace(".", "-") for name, _value in one.headers]
        assert "cf-access-authenticated-user-email" not in meant
        assert one.header("X-Real-IP") == [VISITOR]


def test_the_applications_own_credentials_come_through(proxy: Proxy) -> None:
    token = ("Authorization", "Bearer of-the-bot")
    assert proxy.ask("/api/api-access/files/upload", [token], method="POST", body=b"x").status == 200
    assert proxy.services.seen[0].header("Authorization") == ["Bearer of-the-bot"]


def test_only_a_trusted_proxy_is_believed_who_its_client_is(proxy: Proxy, mark: str) -> None:
    said = [("X-Forwarded-For", f"192.0.2.99, {OTHER}, {OPERATOR}")]
    with inventory(proxy, {"memoryark_trusted_proxies": [f"{VISITOR}/32", OPERATOR]}):
        proxy.ask(f"/{mark}trusted", said, source=VISITOR)
        proxy.ask(f"/{mark}other", said, source=OTHER)
        found = {entry["path"]: (entry["client"], entry["peer"]) for entry in proxy.entries(mark, 2)}
    assert found == {f"/{mark}trusted": (OTHER, VISITOR), f"/{mark}other": (OTHER, OTHER)}
    assert [one.header("X-Forwarded-For") for one in proxy.services.seen] == [[OTHER], [OTHER]]


# --- one request that is two

TWO = "GET /smuggled HTTP/1.1\r\nHost: photos.church.test\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        f"Content-Length: {len(TWO) + 5}\r\nTransfer-Encoding: chunked",
        f"Transfer-Encoding: chunked\r\nContent-Length: {len(TWO) + 5}",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer_Encoding: chunked",
        f"Content-Length: 0\r\nContent-Length: {len(TWO) + 5}",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -1",
        "Content-Length: 0x5",
        "Content-Length: 99999999999999999999999",
        f"Content_Length: {len(TWO) + 5}",
        "Content-Length: 5\nTransfer-Encoding: chunked",
    ],
)
@pytest.mark.parametrize("target", ["/api/files/upload", "/form"], ids=["unbuffered", "buffered"])
def test_no_request_hides_another_from_the_proxy(proxy: Proxy, head: str, target: str) -> None:
    raw = f"POST {target} HTTP/1.1\r\nHost: {PHOTOS}\r\n{head}\r\n\r\n0\r\n\r\n{TWO}".encode("latin-1")
    with proxy.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(raw)
        statuses = all_statuses(connection)
    # Whatever a service took for a request, the proxy has answered as one: it knew of it.
    assert len(proxy.services.seen) <= len([status for status in statuses if status != 400])
    for one in proxy.services.seen:
        assert not (one.header("Content-Length") and one.header("Transfer-Encoding"))


def all_statuses(connection: socket.socket, most: int = 1000) -> list[int]:
    """The statuses of ``most`` answers, or until the server hangs up or says nothing for a while."""
    received = b""
    found: list[bytes] = []
    connection.settimeout(1)
    with contextlib.suppress(OSError):
        while len(found) < most and (data := connection.recv(65536)):
            received += data
            found = re.findall(rb"HTTP/1\.1 (\d{3})", received)
    return [int(status) for status in found]


def test_a_body_that_looks_like_a_request_stays_a_body(proxy: Proxy) -> None:
    assert proxy.ask("/form", method="POST", body=TWO.encode()).status == 200
    assert [(one.target, one.body) for one in proxy.services.seen] == [("/form", TWO.encode())]


@pytest.mark.parametrize(
    ("target", "protocol", "status", "passed"),
    [
        ("/api/ws", "websocket", 101, ["websocket"]),
        ("/api/ws", "WebSocket", 101, ["websocket"]),
        ("/api/ws", "h2c", 200, []),
        ("/api/ws", "websocket, h2c", 200, []),
        ("/api/files", "websocket", 200, []),
        ("/", "h2c", 200, []),
    ],
)
def test_no_other_protocol_is_spoken_past_the_proxy(
    proxy: Proxy, target: str, protocol: str, status: int, passed: list[str]
) -> None:
    headers = [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", protocol),
        ("HTTP2-Settings", "AAMAAABk"),
    ]
    with inventory(proxy, {"memoryark_photos": "public"}):
        assert proxy.ask(target, headers).status == status
    assert proxy.services.seen[0].header("Upgrade") == passed


@pytest.mark.parametrize(
    ("origins", "status"),
    [
        ([], 101),
        ([f"https://{PHOTOS}"], 101),
        (["https://other.test"], 403),
        ([f"http://{PHOTOS}"], 403),
        ([f"https://{PHOTOS}.other.test"], 403),
        ([f"https://{LINE}"], 403),
        (["null"], 403),
        ([f"https://{PHOTOS} x"], 403),
        (["https://other.test", f"https://{PHOTOS}"], 403),
    ],
)
def test_no_page_of_others_opens_a_websocket(proxy: Proxy, origins: list[str], status: int) -> None:
    headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), *(("Origin", one) for one in origins)]
    with inventory(proxy, {"memoryark_photos": "public"}):
        assert proxy.ask("/api/ws", headers).status == status
    assert len(proxy.services.seen) == (status == 101)


def test_news_of_photos_are_for_those_who_may_see_them(proxy: Proxy) -> None:
    headers = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    assert proxy.ask("/api/ws", headers).status == 404
    assert proxy.services.seen == []


@pytest.mark.parametrize("host", ["other.test", "", "192.0.2.10", f"{PHOTOS}@other.test", f"{PHOTOS}/../x"])
def test_another_host_than_that_of_the_handshake_gets_nothing(proxy: Proxy, host: str) -> None:
    answer = proxy.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.status in {400, 421}
    assert proxy.services.seen == []


def test_two_hosts_are_none(proxy: Proxy) -> None:
    assert proxy.send(f"GET / HTTP/1.1\r\nHost: {PHOTOS}\r\nHost: {LINE}\r\n\r\n".encode()).status == 400


# --- paths


@pytest.mark.parametrize(
    "target", ["/api/line", "/api/line/info", "/api/line/health?x=1", "/uploads/files/a.jpg"]
)
@pytest.mark.parametrize(
    "trick",
    [
        lambda path: path,
        lambda path: f"/{path}",
        lambda path: path.replace("/", "//"),
        lambda path: path.replace("/", "/./"),
        lambda path: f"/x/..{path}",
        lambda path: f"/x/%2e%2e{path}",
        lambda path: f"/x/.%2E{path}",
        lambda path: f"/x%2f..{path}",
        lambda path: f"/x/..;{path}",
        lambda path: f"/x/..;a=b{path}",
        lambda path: f"/x/..%3b{path}",
        lambda path: f"/x/%252e%252e{path}",
        lambda path: f"/x/%25252e%25252e{path}",
        lambda path: f"/api/x/../..{path}",
        lambda path: f"/assets/..%5c..{path}",
        lambda path: path.replace("/", "\\", 1),
        lambda path: path.replace("/", "/%5c", 1),
        lambda path: f"/assets#/..{path}",
        lambda path: f"/api/files%00/..{path}",
        lambda path: f"{path}/%2e%2e/x" if "?" not in path else path,
        lambda path: "/%" + f"{ord(path[1]):x}" + path[2:],
        lambda path: path.replace("/l", "%2fl").replace("/f", "%2Ff"),
        lambda path: f"https://{PHOTOS}{path}",
    ],
    ids=lambda trick: repr(trick("/closed")),
)
def test_no_path_leads_around_a_closed_route(proxy: Proxy, trick: Callable[[str], str], target: str) -> None:
    answer = proxy.send(f"GET {trick(target)} HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n".encode())
    assert answer.status in {400, 404}
    assert proxy.services.seen == []


@pytest.mark.parametrize(
    "target",
    [
        "/albums/2026/my..photo.jpg",
        "/.well-known/x",
        "/...",
        "/api/files?path=../x",
        "/a%20b",
        "/%E7%85%A7",
        "/a;b",
        "/a%2Fb",
    ],
)
def test_what_browsers_send_comes_through_as_it_is(proxy: Proxy, target: str) -> None:
    assert proxy.ask(target).status == 200
    assert [one.target for one in proxy.services.seen] == [target]


@pytest.mark.parametrize(
    "target",
    ["/", "/health", "/api/line/info", "/webhook/health", "/webhook/line/x", "/webhook/line/", "/webhook"],
)
def test_the_bots_name_has_nothing_but_the_webhook(proxy: Proxy, target: str) -> None:
    for method in ("GET", "POST"):
        assert proxy.ask(target, method=method, name=LINE).status == 404
    assert proxy.services.seen == []


def test_a_redirect_names_no_port_of_the_container(proxy: Proxy) -> None:
    answer = proxy.ask("/api")
    assert (answer.status, answer.headers["location"]) == (301, "/api/")


# --- who may open what


@pytest.mark.parametrize(
    ("photos", "visitor", "operator"), [("closed", 404, 404), ("operators", 403, 200), ("public", 200, 200)]
)
def test_who_may_open_photos_is_a_setting(proxy: Proxy, photos: str, visitor: int, operator: int) -> None:
    settings = {"memoryark_photos": photos, "memoryark_operator_networks": [f"{OPERATOR}/32"]}
    with inventory(proxy, settings):
        assert proxy.ask("/uploads/files/a.svg").status == visitor
        answer = proxy.ask("/uploads/files/a.svg", source=OPERATOR)
        assert answer.status == operator
        if operator == 200:
            assert answer.headers["content-security-policy"].startswith("sandbox;")
        for other in ("/uploads/chunks/a", "/uploads/exports/a.zip", "/uploads/a"):
            proxy.ask(other)
    assert {one.service for one in proxy.services.seen if "/files/" not in one.target} == {
        "memoryark-frontend"
    }


def test_health_is_for_operators(proxy: Proxy) -> None:
    assert proxy.ask("/api/health").status == 403
    assert proxy.ask("/api/health", source=OPERATOR).status == 403
    with inventory(proxy, {"memoryark_operator_networks": ["2001:db8:2::/48", OPERATOR]}):
        assert proxy.ask("/api/health", source=OPERATOR).status == 200
        assert proxy.ask("/api/health", source=NEIGHBOURS).status == 200
        assert proxy.ask("/api/health", source=VISITOR).status == 403
        assert proxy.ask("/api/health", [("X-Forwarded-For", OPERATOR)]).status == 403


def test_operators_have_passwords(proxy: Proxy) -> None:
    hashed = sha512_crypt.using(rounds=5000).hash("a long passphrase")
    file = proxy.place / "secrets" / "operators"
    file.write_text(f"anna:{hashed}\n")
    override = {
        "services": {"nginx-proxy": {"secrets": [{"source": "operators", "target": "operators"}]}},
        "secrets": {"operators": {"external": True}},
    }

    def status(words: str) -> int:
        encoded = base64.b64encode(words.encode()).decode()
        return proxy.ask("/api/health", [("Authorization", f"Basic {encoded}")]).status

    with inventory(proxy, {}, override):
        assert proxy.ask("/api/health").status == 401
        assert [status(f"anna:{word}") for word in ("wrong", "", hashed, "a long passphrase")] == [
            401
        ] * 3 + [200]
        assert status("other:a long passphrase") == 401
    assert [one.header("Authorization") for one in proxy.services.seen] == [[]]


def test_headers_that_protect_visitors(proxy: Proxy) -> None:
    for target, status in (("/", 200), ("/api/line/", 404), ("/a/../..%2f", 400)):
        answer = proxy.ask(target)
        assert answer.status == status
        found = answer.headers
        assert found["strict-transport-security"] == "max-age=63072000"
        assert found["x-content-type-options"] == "nosniff"
        assert found["x-frame-options"] == "SAMEORIGIN"
        assert "frame-ancestors 'self'" in found["content-security-policy"]
        assert "x-powered-by" not in found
        assert found["server"] == "nginx"


# --- too much, too slow


@pytest.mark.parametrize(
    ("first", "same", "another"), [(VISITOR, VISITOR, OTHER), (HOUSEHOLD, SAME_HOUSEHOLD, NEIGHBOURS)]
)
def test_one_client_cannot_ask_without_end(proxy: Proxy, first: str, same: str, another: str) -> None:
    """A client of IPv6 has more addresses than anyone could count."""
    statuses = Counter(flood(proxy, first, 900))
    assert statuses[429] > 0
    assert statuses[200] >= 500
    assert 429 in flood(proxy, same, 450)
    assert set(flood(proxy, another, 450)) == {200}


def flood(proxy: Proxy, source: str, count: int) -> list[int]:
    """The statuses of as many requests as fast as they go."""
    with proxy.connect(source=source) as connection:
        connection.sendall(request("/asset") * count)
        return all_statuses(connection, count)


def test_slow_clients_stop_nobody(proxy: Proxy) -> None:
    beginnings = [
        f"GET / HTTP/1.1\r\nHost: {PHOTOS}\r\n".encode(),
        request(
            WEBHOOK, [("x-line-signature", GOOD), ("Content-Length", "5000")], method="POST", name=PHOTOS
        ),
        request("/api/files/upload", [("Content-Length", "90000000")], method="POST") + b"x" * 1000,
        request("/form", [("Content-Length", "900000")], method="POST") + b"x" * 1000,
    ]
    with contextlib.ExitStack() as slow:
        for number in range(200):
            connection = slow.enter_context(proxy.connect(source=OTHER))
            connection.sendall(beginnings[number % len(beginnings)])
        took = []
        for _number in range(20):
            begun = time.monotonic()
            assert proxy.ask("/").status == 200
            answer = proxy.ask(WEBHOOK, [("x-line-signature", GOOD)], method="POST", name=LINE, body=EVENTS)
            assert answer.status == 200
            took.append(time.monotonic() - begun)
    assert max(took) < 2.0, took


def test_a_webhook_that_stands_still_is_given_up(proxy: Proxy) -> None:
    head = request(WEBHOOK, [("x-line-signature", GOOD), ("Content-Length", "500")], method="POST", name=LINE)
    with proxy.connect(LINE) as connection:
        begun = time.monotonic()
        connection.sendall(head + b"{")
        assert read_answer(connection).status in {0, 408}
        assert time.monotonic() - begun < 15, "nginx waits on"
    assert [one for one in proxy.services.seen if one.service == "line-service"] == []


# --- the log


def test_every_request_has_its_line_whatever_happens_to_the_proxy(proxy: Proxy, mark: str) -> None:
    """Numbered requests without a pause, while nginx is reloaded and started anew."""
    over, answered = threading.Event(), [0] * 4

    def visit(visitor: int) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                target = f"/{mark}{visitor}-{answered[visitor]}-"
                if proxy.ask(target).status == 200:
                    answered[visitor] += 1

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(len(answered))]
    for visitor in visitors:
        visitor.start()
    try:
        for change in (proxy.reload, proxy.reload, restart(proxy), proxy.reload):
            change()
            wait_for_more(answered, 40)
    finally:
        over.set()
        for visitor in visitors:
            visitor.join()
    entries = proxy.entries(mark, sum(answered))
    lines = Counter(entry["path"] for entry in entries if entry["status"] == 200)
    assert lines == {
        f"/{mark}{visitor}-{number}-": 1
        for visitor in range(len(answered))
        for number in range(answered[visitor])
    }
    assert len({entry["request_id"] for entry in entries}) == len(entries)


def restart(proxy: Proxy) -> Callable[[], None]:
    def both() -> None:
        proxy.stop()
        proxy.start()

    return both


def wait_for_more(answered: list[int], more: int) -> None:
    wanted, deadline = sum(answered) + more, time.monotonic() + 20
    while sum(answered) < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_line_says_what_happened(proxy: Proxy, mark: str) -> None:
    proxy.ask(f"/api/files/{mark}?token=hidden", [("Cookie", "hidden"), ("Referer", f"/{mark}?hidden")])
    proxy.ask(WEBHOOK, [("x-line-signature", GOOD)], method="POST", name=LINE, body=EVENTS)
    (entry,) = proxy.entries(mark, 1)
    wanted = {
        "client": VISITOR,
        "peer": VISITOR,
        "host": PHOTOS,
        "method": "GET",
        "path": f"/api/files/{mark}",
        "route": "/api/",
        "status": 200,
        "upstream": "10.89.2.20:8081",
        "upstream_status": "200",
    }
    assert {name: entry[name] for name in wanted} == wanted
    assert entry["request_id"] == proxy.services.seen[0].header("X-Request-Id")[0]
    assert float(entry["upstream_time"]) <= entry["request_time"] + 0.002
    (webhook,) = proxy.entries(proxy.services.seen[1].header("X-Request-Id")[0], 1)
    assert (webhook["route"], webhook["status"], webhook["upstream"]) == (
        f"= {WEBHOOK}",
        200,
        "10.89.2.153:3000",
    )
    assert "hidden" not in "".join(proxy.lines)


@pytest.mark.parametrize(
    "raw",
    [
        f"GET /{{mark}}?token=hidden HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n",
        f"GET /{{mark}}\xe7\x85\xa7?token=hidden HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n",
        f'GET /{{mark}}"\\ HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n',
        f"GET /{{mark}}{'x' * 7000} HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n",
        f"GET /{{mark}}{'%22' * 2000} HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n",
        f"{'X' * 3000} /{{mark}} HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n",
        'GET /{mark} HTTP/1.1\r\nHost: \xff"\r\n\r\n',
        "GET /{mark} HTTP/1.1\r\nHost: " + "a" * 3000 + "\r\n\r\n",
        f"GET /{{mark}} HTTP/1.1\r\nHost: {PHOTOS}\r\nBad Header: x\r\n\r\n",
        f"GET /{{mark}} HTTP/1.1\r\nHost: {PHOTOS}\r\n{'X-Long: ' + 'x' * 40000}\r\n\r\n",
        f"GET /{{mark}}/..%5c HTTP/1.1\r\nHost: {PHOTOS}\r\n\r\n",
        "GET /{mark}\r\n",
    ],
)
def test_no_request_spoils_the_log(proxy: Proxy, mark: str, raw: str) -> None:
    proxy.send(raw.replace("{mark}", mark).encode("latin-1"))
    (entry,) = proxy.entries(mark, 1)
    line = next(line for line in proxy.lines if mark in line)
    assert len(line) < select.PIPE_BUF
    assert line.isascii()
    assert "hidden" not in line
    assert entry["client"] == VISITOR


def test_no_token_is_in_what_nginx_says_of_errors(proxy: Proxy, mark: str) -> None:
    proxy.services.away.add("memoryark-backend")
    try:
        status = proxy.ask(f"/api/files/{mark}?token=hidden", [("Referer", "/x?token=hidden")]).status
    finally:
        proxy.services.away.clear()
    assert status == 503
    assert proxy.entries(mark, 1)[0]["upstream_status"] == "502"
    proxy.ask(
        WEBHOOK + "?token=hidden",
        [("x-line-signature", sign(b"hidden"))],
        method="POST",
        name=LINE,
        body=EVENTS,
    )
    for word in ("hidden", GOOD, sign(b"hidden"), SECRET):
        assert word not in proxy.errors
        assert word not in "".join(proxy.lines)


# --- who is signed in

ISSUER, AUDIENCE = "https://church.cloudflareaccess.com", "0a" * 32
KEY, ANOTHER_KEY = (rsa.generate_private_key(65537, 2048) for _number in range(2))


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def number(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def key_set(key: rsa.RSAPrivateKey, kid: str = "k1") -> str:
    public = key.public_key().public_numbers()
    one = {
        "kid": kid,
        "kty": "RSA",
        "alg": "RS256",
        "use": "sig",
        "e": number(public.e),
        "n": number(public.n),
    }
    return json.dumps({"keys": [one], "public_cert": {"kid": kid, "cert": "…"}})


SIGN_IN = {
    "memoryark_access_issuer": ISSUER,
    "memoryark_access_audience": AUDIENCE,
    "memoryark_access_keys": key_set(KEY),
    "memoryark_photos": "members",
}


def token(key: rsa.RSAPrivateKey = KEY, head: Mapping[str, object] = {}, **claims: object) -> str:
    now = int(time.time())
    whole = {
        "aud": [AUDIENCE],
        "iss": ISSUER,
        "email": "anna@church.tw",
        "iat": now,
        "nbf": now,
        "exp": now + 600,
    }
    whole = {name: value for name, value in {**whole, **claims}.items() if value is not None}
    header = {"alg": "RS256", "kid": "k1", "typ": "JWT", **head}
    parts = ".".join(base64url(json.dumps(part).encode()) for part in (header, whole))
    signature = key.sign(parts.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{parts}.{base64url(signature)}"


def with_hmac() -> str:
    """Signed with the public key, as if that were a secret: for a program that lets a token choose."""
    parts = token(head={"alg": "HS256"}).rpartition(".")[0]
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    secret = KEY.public_key().public_bytes(*form)
    return f"{parts}.{base64url(hmac.new(secret, parts.encode(), hashlib.sha256).digest())}"


def tampered() -> str:
    head, _claims, signature = token().split(".")
    return f"{head}.{token(email='root@church.tw').split('.')[1]}.{signature}"


@pytest.fixture(scope="module")
def signing_in(running: Proxy) -> Iterator[Proxy]:
    with inventory(running, SIGN_IN):
        yield running


GOOD_TOKENS: list[Callable[[], str]] = [
    token,
    lambda: token(aud=AUDIENCE),
    lambda: token(aud=["ff" * 32, AUDIENCE]),
    lambda: token(nbf=int(time.time()) + 30),
    lambda: token(nbf=None, iat=None),
]
BAD_TOKENS: list[Callable[[], str]] = [
    lambda: "",
    lambda: "..",
    lambda: "a.b.c",
    lambda: token(ANOTHER_KEY),
    lambda: token(exp=int(time.time()) - 1),
    lambda: token(exp=None),
    lambda: token(exp="never"),
    lambda: token(nbf=int(time.time()) + 300),
    lambda: token(iat=int(time.time()) + 300),
    lambda: token(aud=["ff" * 32]),
    lambda: token(aud=None),
    lambda: token(aud={AUDIENCE: AUDIENCE}),
    lambda: token(iss="https://other.cloudflareaccess.com"),
    lambda: token(iss=f"{ISSUER}.evil.test"),
    lambda: token(email=None),
    lambda: token(email=""),
    lambda: token(email=["anna@church.tw"]),
    lambda: token(email="anna"),
    lambda: token(email="anna@church.tw\r\nX-Other: a"),
    lambda: token(email="anna@church.tw, root@church.tw"),
    lambda: token(head={"alg": "none"}),
    lambda: token(head={"alg": "none"}).rpartition(".")[0] + ".",
    lambda: token(head={"alg": "RS512"}),
    lambda: token(head={"kid": "k2"}),
    lambda: token(head={"kid": None}),
    lambda: token(head={"kid": "__proto__"}),
    lambda: token(head={"kid": "constructor"}),
    lambda: token(head={"crit": ["exp"]}),
    lambda: token(ANOTHER_KEY, head={"jwk": json.loads(key_set(ANOTHER_KEY))["keys"][0]}),
    with_hmac,
    tampered,
    lambda: token()[:-8],
    lambda: token() + "." + token().rpartition(".")[2],
    lambda: f"{token()}, {token()}",
    lambda: token().rpartition(".")[0] + ".",
]


@pytest.mark.parametrize(
    ("tokens", "email"), [(GOOD_TOKENS, ["anna@church.tw"]), (BAD_TOKENS, [])], ids=["good", "bad"]
)
def test_the_application_learns_only_who_cloudflare_says_it_is(
    signing_in: Proxy, tokens: list[Callable[[], str]], email: list[str]
) -> None:
    for make in tokens:
        signing_in.services.seen.clear()
        headers = [
            ("Cf-Access-Jwt-Assertion", make()),
            ("CF-Access-Authenticated-User-Email", "root@church.tw"),
        ]
        assert signing_in.ask("/api/files", headers).status == 200
        (one,) = signing_in.services.seen
        assert one.header("CF-Access-Authenticated-User-Email") == email, make()
        assert one.header("Cf-Access-Jwt-Assertion") == []
        photo = signing_in.ask("/uploads/files/a.jpg", headers)
        assert photo.status == (200 if email else 403)
        assert photo.headers["content-security-policy"].startswith("sandbox;")


def test_two_tokens_are_none(signing_in: Proxy) -> None:
    signing_in.services.seen.clear()
    headers = [("Cf-Access-Jwt-Assertion", token())] * 2
    assert signing_in.ask("/api/files", headers).status == 200
    assert signing_in.services.seen[0].header("CF-Access-Authenticated-User-Email") == []


def test_pages_and_uploads_need_no_token(signing_in: Proxy) -> None:
    signing_in.services.seen.clear()
    body = b"x" * MEBIBYTE * 2
    assert signing_in.ask("/").status == 200
    assert signing_in.ask("/api/api-access/files/upload", method="POST", body=body).status == 200
    assert [one.body for one in signing_in.services.seen] == [b"", body]
    assert [signing_in.ask(f"/internal/{name}").status for name in ("visitor", "member")] == [404, 404]


def test_a_websocket_is_opened_by_somebody(signing_in: Proxy) -> None:
    signing_in.services.seen.clear()
    headers = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Cf-Access-Jwt-Assertion", token())]
    assert signing_in.ask("/api/ws", headers[:2]).status == 403
    assert signing_in.ask("/api/ws", headers).status == 101
    assert signing_in.services.seen[0].header("CF-Access-Authenticated-User-Email") == ["anna@church.tw"]
    (line,) = signing_in.entries(signing_in.services.seen[0].header("X-Request-Id")[0], 1)
    assert (line["route"], line["status"]) == ("/api/ws", 101)
