"""The load: its rate is kept, failures are counted, and gaps come from the record alone."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from line_platform import signature
from memoryark_lab import load, network, world
from memoryark_lab.errors import LabError
from memoryark_lab.load import Load, Record, Request, Result

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SECRET = "0123456789abcdef" * 2


@contextmanager
def serving(handler: Handler) -> Iterator[str]:
    """A web server on loopback, in a thread of its own; its address."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(_app(handler))

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port: int = runner.addresses[0][1]
        return port

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    yield f"http://127.0.0.1:{port}/"
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def _app(handler: Handler) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    return app


def every_third_fails() -> Handler:
    seen = iter(range(10**6))

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503 if next(seen) % 3 == 2 else 200)

    return answer


def generate(what: Load) -> list[Record]:
    async def run() -> list[Record]:
        return await load.generate(what, asyncio.Event())

    return asyncio.run(run())


def records(*statuses: int, apart: float = 1.0, latency: float = 0.1) -> list[Record]:
    """Requests one after the other."""
    return [Record(index * apart, latency, status) for index, status in enumerate(statuses)]


@pytest.mark.parametrize(
    ("statuses", "gap"),
    [
        ([], 0.0),
        ([200, 204, 308], 0.0),
        ([200, 502, 200], 1.0),
        ([200, 502, 0, 504, 200], 3.0),
        ([502, 200, 502, 502, 200], 2.0),
        ([502, 502, 200, 502, 200], 2.0),
        ([200, 429], 0.1),
        ([0, 0, 0], 2.1),
    ],
)
def test_the_longest_gap_lasts_to_the_next_good_request(statuses: list[int], gap: float) -> None:
    assert load.longest_gap(records(*statuses)) == pytest.approx(gap)


def test_a_gap_does_not_depend_on_the_order_of_the_record() -> None:
    assert load.longest_gap(records(200, 502, 502, 200)[::-1]) == 2.0


def test_a_result_counts_what_became_of_the_requests() -> None:
    result = Result(
        [*records(200, 502, 200, 429), Record(4.0, 2.5, 0, "TimeoutError"), Record(5.0, 3.0, 200)]
    )
    assert result.failed == 3
    assert result.statuses == {"200": 3, "429": 1, "502": 1, "TimeoutError": 1}
    assert result.latency_median == pytest.approx(0.1)
    assert result.latency_max == 3.0
    assert result.slower_than(2.0) == 1
    assert result.gap_seconds == 2.0


def test_an_empty_result_has_no_latency() -> None:
    assert (Result().failed, Result().latency_median, Result().latency_max) == (0, 0.0, 0.0)


def test_failures_are_counted() -> None:
    with serving(every_third_fails()) as url:
        found = Result(generate(Load(Request("GET", url), rate=50, seconds=0.6)))
    assert found.statuses == {"200": 20, "503": 10}
    assert found.failed == 10


def test_the_rate_is_kept_while_answers_wait() -> None:
    arrived = []

    async def slow(request: web.Request) -> web.StreamResponse:
        arrived.append(time.monotonic())
        await asyncio.sleep(0.5)
        return web.Response()

    with serving(slow) as url:
        found = generate(Load(Request("GET", url), rate=20, seconds=1.0))
    assert len(arrived) == len(found) == 20
    # One after the other they would take ten seconds.
    assert arrived[-1] - arrived[0] == pytest.approx(0.95, abs=0.4)
    assert all(record.latency >= 0.5 and record.good for record in found)


def test_no_answer_is_a_failure_with_the_name_of_its_reason() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.5)
        return web.Response()

    with serving(silent) as url:
        found = generate(Load(Request("GET", url), rate=20, seconds=0.1, timeout=0.2))
    assert [(record.status, record.error) for record in found] == [(0, "TimeoutError")] * 2
    nobody = generate(Load(Request("GET", url), rate=20, seconds=0.05))
    assert [record.error for record in nobody] == ["ClientConnectorError"]


def test_a_name_is_looked_up_in_the_load_and_nowhere_else() -> None:
    async def named(request: web.Request) -> web.StreamResponse:
        return web.Response(status=200 if request.host.startswith("photos.test:") else 400)

    with serving(named) as url:
        port = url.rsplit(":", 1)[1]
        known = Load(Request("GET", f"http://photos.test:{port}"), {"photos.test": "127.0.0.1"}, seconds=0.05)
        unknown = Load(Request("GET", f"http://other.test:{port}"), seconds=0.05)
        assert Result(generate(known)).statuses == {"200": 1}
        assert Result(generate(unknown)).failed == 1


def test_it_runs_while_the_block_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[str, str | None, str]] = []

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append((request.method, request.headers.get("x-mark"), await request.text()))
        return web.Response()

    monkeypatch.setattr(network, "outside", list)
    host: Any = SimpleNamespace(name="demo", address="127.0.0.1")
    with serving(note) as url:
        with load.running(host, Request("POST", url, {"x-mark": "m"}, "body"), rate=50) as result:
            assert result.records == []
        assert result.failed == 0
        assert len(result.records) == len(seen) > 0
    assert set(seen) == {("POST", "m", "body")}
    result.save(tmp_path / "records.json")
    assert len(json.loads((tmp_path / "records.json").read_text())) == len(seen)


def test_a_load_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "outside", lambda argv: [argv[0], "-c", "raise SystemExit('no')"])
    host: Any = SimpleNamespace(name="demo", address="127.0.0.1")
    with (
        pytest.raises(LabError, match="does not start"),
        load.running(host, Request("GET", "http://a.test/")),
    ):
        pytest.fail("the block must not run")


def test_the_webhook_is_signed_over_its_very_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "facts", lambda: {"secrets": {"line_channel_secret": SECRET}})
    request = load.webhook("demo")
    assert request.url == "https://line.demo.memoryark.test/webhook/line"
    assert json.loads(request.body)["events"] == []
    assert signature.verify(SECRET, request.body.encode(), request.headers["x-line-signature"])
    assert load.page("demo", "/api/health").url == "https://photos.demo.memoryark.test/api/health"
