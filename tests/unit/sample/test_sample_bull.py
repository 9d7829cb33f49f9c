"""The queue's structure in a real Redis."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import redis.asyncio
from line_service import bull
from line_service.bull import Backoff, Client, Options, Queue

OPTIONS = Options(attempts=3, backoff=Backoff("exponential", 20), remove_on_complete=2, remove_on_fail=1)
Redis = redis.asyncio.Redis


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[Redis]:
    client = Redis(port=port, decode_responses=True)
    await client.flushall()
    try:
        yield client
    finally:
        await client.aclose()


def run(port: int, scenario: Callable[[Redis, Queue], Awaitable[None]], lock_ms: int = 30000) -> None:
    """Run a scenario on an empty Redis."""

    async def main() -> None:
        async with connection(port) as client:
            await scenario(client, Queue(cast(Client, client), "q", OPTIONS, lock_ms))

    asyncio.run(main())


def test_a_job_as_bull_stores_it(redis_port: int) -> None:
    async def scenario(client: Redis, queue: Queue) -> None:
        assert await queue.add("process-photo", {"messageId": "7", "名": "照片"}) == "1"
        assert await queue.add("process-photo", {}) == "2"
        assert await client.get("bull:q:id") == "2"
        assert await client.lrange("bull:q:wait", 0, -1) == ["2", "1"]
        stored = await client.hgetall("bull:q:1")
        assert set(stored) == {"name", "data", "opts", "timestamp", "delay", "priority"}
        assert stored["name"] == "process-photo"
        assert json.loads(stored["data"]) == {"messageId": "7", "名": "照片"}
        options = json.loads(stored["opts"])
        assert options["attempts"] == 3
        assert options["backoff"] == {"type": "exponential", "delay": 20}
        assert (options["removeOnComplete"], options["removeOnFail"]) == (2, 1)
        assert abs(int(stored["timestamp"]) - time.time() * 1000) < 10_000

    run(redis_port, scenario)


def test_the_oldest_job_is_taken_and_locked(redis_port: int) -> None:
    async def scenario(client: Redis, queue: Queue) -> None:
        for number in range(2):
            await queue.add("n", {"number": number})
        job = await queue.take(1)
        assert job is not None
        assert (job.id, job.name, job.data, job.attempts_made) == ("1", "n", {"number": 0}, 0)
        assert await client.lrange("bull:q:active", 0, -1) == ["1"]
        assert 29_000 < await client.pttl("bull:q:1:lock") <= 30_000
        assert await client.hget("bull:q:1", "processedOn")
        await queue.progress(job, 30)
        assert await client.hget("bull:q:1", "progress") == "30"

    run(redis_port, scenario)


def test_an_empty_queue_is_waited_for(redis_port: int) -> None:
    async def scenario(_: Redis, queue: Queue) -> None:
        assert await queue.take(1) is None

    run(redis_port, scenario)


def test_completed_jobs_are_trimmed(redis_port: int) -> None:
    async def scenario(client: Redis, queue: Queue) -> None:
        for _ in range(4):
            await queue.add("n", {})
            job = await queue.take(1)
            assert job is not None
            await queue.complete(job)
            await asyncio.sleep(0.002)
        assert await client.zrange("bull:q:completed", 0, -1) == ["3", "4"]
        assert sorted(await client.keys("*")) == ["bull:q:3", "bull:q:4", "bull:q:completed", "bull:q:id"]
        assert await client.get("bull:q:id") == "4"
        assert await client.hget("bull:q:4", "finishedOn")

    run(redis_port, scenario)


def test_a_failing_job_is_delayed_twice_and_then_given_up(redis_port: int) -> None:
    async def scenario(client: Redis, queue: Queue) -> None:
        await queue.add("n", {})
        for made, wait in ((1, 20), (2, 60)):
            job = await queue.take(1)
            assert job is not None
            assert job.attempts_made == made - 1
            before = bull.milliseconds()
            assert await queue.fail(job, "boom") == made
            assert await client.lrange("bull:q:active", 0, -1) == []
            assert not await client.exists("bull:q:1:lock")
            score = await client.zscore("bull:q:delayed", "1")
            assert score is not None
            assert before + wait <= int(score) // 4096 <= before + wait + 1000
            while not await queue.promote():
                await asyncio.sleep(0.01)
            assert await client.lrange("bull:q:wait", 0, -1) == ["1"]
        job = await queue.take(1)
        assert job is not None
        assert await queue.fail(job, "boom") == 3
        assert await client.zrange("bull:q:failed", 0, -1) == ["1"]
        stored = await client.hgetall("bull:q:1")
        assert (stored["attemptsMade"], stored["failedReason"]) == ("3", "boom")
        assert not await client.exists("bull:q:delayed", "bull:q:wait", "bull:q:active")

    run(redis_port, scenario)


def test_the_job_of_a_dead_worker_runs_again_once(redis_port: int) -> None:
    async def scenario(client: Redis, queue: Queue) -> None:
        await queue.add("n", {})
        for stall, expected in ((1, (["1"], [])), (2, ([], ["1"]))):
            assert await queue.take(1)
            assert await queue.unstall() == ([], [])
            assert await queue.unstall() == ([], []), "its lock still holds"
            await asyncio.sleep(0.15)
            assert await queue.unstall() == ([], []), "the first look only marks it"
            assert await client.smembers("bull:q:stalled") == {"1"}
            assert await queue.unstall() == expected
            assert await client.hget("bull:q:1", "stalledCounter") == str(stall)
        assert await client.zrange("bull:q:failed", 0, -1) == ["1"]
        reason = await client.hget("bull:q:1", "failedReason")
        assert reason == "job stalled more than allowable limit"

    run(redis_port, scenario, lock_ms=100)


def test_a_slow_worker_keeps_its_job(redis_port: int) -> None:
    async def scenario(client: Redis, queue: Queue) -> None:
        await queue.add("n", {})
        job = await queue.take(1)
        assert job is not None
        for _ in range(4):
            await asyncio.sleep(0.06)
            assert await queue.extend(job)
            assert await queue.unstall() == ([], [])
        await asyncio.sleep(0.15)
        assert not await client.exists("bull:q:1:lock")

    run(redis_port, scenario, lock_ms=100)


def test_only_the_lock_holder_may_finish_a_job(redis_port: int) -> None:
    async def scenario(client: Redis, queue: Queue) -> None:
        await queue.add("n", {})
        job = await queue.take(1)
        assert job is not None
        other = Queue(cast(Client, client), "q", OPTIONS)
        await other.complete(job)
        assert not await other.extend(job)
        await other.fail(job, "boom")
        assert await client.lrange("bull:q:active", 0, -1) == ["1"]
        assert not await client.exists("bull:q:completed", "bull:q:delayed")

    run(redis_port, scenario)
