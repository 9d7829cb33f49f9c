"""Job queues in Redis, laid out exactly as the Node library Bull 4 lays them out.

Keys of a queue Q: ``bull:Q:id`` counts the jobs ever added; ``bull:Q:<n>`` is the hash of job n;
``wait`` and ``active`` are lists; ``delayed``, ``completed`` and ``failed`` are sorted sets;
``bull:Q:<n>:lock`` is held by the worker that processes the job and expires if it dies.

As in Bull, every transition is one Lua script, hence atomic.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

PREFIX = "bull"


class Client(Protocol):
    """What is needed of a Redis client (``redis.asyncio.Redis`` with ``decode_responses``)."""

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Awaitable[Any]:
        """Run a Lua script."""

    def brpoplpush(self, src: str, dst: str, timeout: float = 0) -> Awaitable[Any]:
        """Move the oldest entry of a list to another list; wait for one."""

    def hset(self, name: str, key: str, value: str) -> Awaitable[Any]:
        """Set one field of a hash."""


@dataclass(frozen=True)
class Backoff:
    """How long to wait before another attempt."""

    type: str
    delay: int

    def after(self, attempts_made: int) -> int:
        """Milliseconds to wait after so many failed attempts."""
        if self.type == "exponential":
            return ((1 << attempts_made) - 1) * self.delay
        return self.delay


@dataclass(frozen=True)
class Options:
    """Options of a job. ``remove_on_*`` is how many finished jobs are kept."""

    attempts: int
    backoff: Backoff
    remove_on_complete: int
    remove_on_fail: int

    def as_json(self, timestamp: int) -> str:
        """Bull's JSON of the options."""
        return json.dumps(
            {
                "attempts": self.attempts,
                "backoff": asdict(self.backoff),
                "delay": 0,
                "priority": 0,
                "removeOnComplete": self.remove_on_complete,
                "removeOnFail": self.remove_on_fail,
                "timestamp": timestamp,
            },
            separators=(",", ":"),
        )


@dataclass(frozen=True)
class Job:
    """A job in the hands of a worker."""

    id: str
    name: str
    data: dict[str, Any]
    timestamp: int
    attempts_made: int


# KEYS: id, wait. ARGV: prefix of job keys, name, data, opts, timestamp
_ADD = """
local id = redis.call('INCR', KEYS[1])
redis.call('HSET', ARGV[1] .. id, 'name', ARGV[2], 'data', ARGV[3], 'opts', ARGV[4],
  'timestamp', ARGV[5], 'delay', 0, 'priority', 0)
redis.call('LPUSH', KEYS[2], id)
return tostring(id)
"""
# KEYS: job, lock, active, stalled. ARGV: token, lock ms, now, job id
_TAKE = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('LREM', KEYS[3], 1, ARGV[4])
  return {}
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
redis.call('SREM', KEYS[4], ARGV[4])
redis.call('HSET', KEYS[1], 'processedOn', ARGV[3])
return redis.call('HGETALL', KEYS[1])
"""
# KEYS: lock, stalled. ARGV: token, lock ms, job id
_EXTEND = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SREM', KEYS[2], ARGV[3])
return 1
"""
# KEYS: lock, active, stalled, finished set, job.
# ARGV: token, job id, now, field, value, how many to keep, prefix of job keys, attempts made
_FINISH = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('LREM', KEYS[2], -1, ARGV[2])
redis.call('SREM', KEYS[3], ARGV[2])
redis.call('HSET', KEYS[5], ARGV[4], ARGV[5], 'finishedOn', ARGV[3], 'attemptsMade', ARGV[8])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[2])
local surplus = redis.call('ZREVRANGE', KEYS[4], ARGV[6], -1)
for _, id in ipairs(surplus) do
  redis.call('DEL', ARGV[7] .. id, ARGV[7] .. id .. ':lock', ARGV[7] .. id .. ':logs')
  redis.call('ZREM', KEYS[4], id)
end
return 1
"""
# KEYS: lock, active, stalled, delayed, job. ARGV: token, job id, score, reason, attempts made
_DELAY = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('LREM', KEYS[2], -1, ARGV[2])
redis.call('SREM', KEYS[3], ARGV[2])
redis.call('HSET', KEYS[5], 'failedReason', ARGV[4], 'attemptsMade', ARGV[5])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[2])
return 1
"""
# KEYS: delayed, wait. ARGV: highest score that is due
_PROMOTE = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], 0, ARGV[1], 'LIMIT', 0, 1000)
for _, id in ipairs(due) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('LPUSH', KEYS[2], id)
end
return #due
"""
# KEYS: stalled, wait, active, failed. ARGV: prefix of job keys, now, most stalls of a job
_UNSTALL = """
local moved, lost = {}, {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  redis.call('SREM', KEYS[1], id)
  if redis.call('EXISTS', ARGV[1] .. id .. ':lock') == 0
      and redis.call('LREM', KEYS[3], 1, id) > 0 then
    if redis.call('HINCRBY', ARGV[1] .. id, 'stalledCounter', 1) > tonumber(ARGV[3]) then
      redis.call('ZADD', KEYS[4], ARGV[2], id)
      redis.call('HSET', ARGV[1] .. id, 'failedReason', 'job stalled more than allowable limit',
        'finishedOn', ARGV[2])
      table.insert(lost, id)
    else
      redis.call('RPUSH', KEYS[2], id)
      table.insert(moved, id)
    end
  end
end
for _, id in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
  if redis.call('EXISTS', ARGV[1] .. id .. ':lock') == 0 then redis.call('SADD', KEYS[1], id) end
end
return {moved, lost}
"""


def milliseconds() -> int:
    """Now, as JavaScript counts it."""
    return time.time_ns() // 1_000_000


def delayed_score(due: int, job_id: str) -> int:
    """Bull's score of a delayed job: the low twelve bits keep jobs that fall due together in order."""
    return due * 0x1000 + (int(job_id) & 0xFFF)


class Queue:
    """One queue. ``lock_ms`` is how long a worker may be silent before its job counts as stalled."""

    MAX_STALLED = 1

    def __init__(self, client: Client, name: str, options: Options, lock_ms: int = 30000) -> None:
        self.name = name
        self.options = options
        self.lock_ms = lock_ms
        self._client = client
        self._token = str(uuid.uuid4())

    def key(self, suffix: str) -> str:
        """Full name of a key of this queue."""
        return f"{PREFIX}:{self.name}:{suffix}"

    async def add(self, name: str, data: dict[str, Any]) -> str:
        """Append a job; returns its number."""
        now = milliseconds()
        body = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        keys = (self.key("id"), self.key("wait"))
        arguments = (self.key(""), name, body, self.options.as_json(now), now)
        return str(await self._client.eval(_ADD, 2, *keys, *arguments))

    async def take(self, timeout: float) -> Job | None:
        """Wait up to ``timeout`` seconds for the oldest job and lock it."""
        job_id = await self._client.brpoplpush(self.key("wait"), self.key("active"), timeout)
        if job_id is None:
            return None
        keys = (self.key(job_id), self.key(f"{job_id}:lock"), self.key("active"), self.key("stalled"))
        arguments = (self._token, self.lock_ms, milliseconds(), job_id)
        flat = cast(list[str], await self._client.eval(_TAKE, 4, *keys, *arguments))
        if not flat:
            return None
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        return Job(
            id=job_id,
            name=fields["name"],
            data=json.loads(fields["data"]),
            timestamp=int(fields["timestamp"]),
            attempts_made=int(fields.get("attemptsMade", "0")),
        )

    async def progress(self, job: Job, percent: int) -> None:
        """Record how far a job is."""
        await self._client.hset(self.key(job.id), "progress", str(percent))

    async def extend(self, job: Job) -> bool:
        """Renew the lock; False if it is lost."""
        keys = (self.key(f"{job.id}:lock"), self.key("stalled"))
        return bool(await self._client.eval(_EXTEND, 2, *keys, self._token, self.lock_ms, job.id))

    async def complete(self, job: Job) -> None:
        """Move a job to the completed ones."""
        keep = self.options.remove_on_complete
        made = job.attempts_made
        await self._finish(job, "completed", result=("returnvalue", "null"), keep=keep, made=made)

    async def fail(self, job: Job, reason: str) -> int:
        """Let a job be tried again later, or give it up; returns the attempts made so far."""
        made = job.attempts_made + 1
        if made >= self.options.attempts:
            keep = self.options.remove_on_fail
            await self._finish(job, "failed", result=("failedReason", reason), keep=keep, made=made)
            return made
        score = delayed_score(milliseconds() + self.options.backoff.after(made), job.id)
        arguments = (self._token, job.id, score, reason, made)
        await self._client.eval(_DELAY, 5, *self._finish_keys(job, "delayed"), *arguments)
        return made

    async def promote(self) -> int:
        """Move the delayed jobs that are due back to the waiting ones."""
        highest = milliseconds() * 0x1000 + 0xFFF
        keys = (self.key("delayed"), self.key("wait"))
        return int(await self._client.eval(_PROMOTE, 2, *keys, highest))

    async def unstall(self) -> tuple[list[str], list[str]]:
        """Rescue the jobs of dead workers; returns those to be run again and those given up.

        Takes two calls: the first marks active jobs without a lock, the next moves those that still
        have none. A job that was taken a moment ago and is not locked yet is thus left alone.
        """
        keys = (self.key("stalled"), self.key("wait"), self.key("active"), self.key("failed"))
        arguments = (self.key(""), milliseconds(), self.MAX_STALLED)
        moved, lost = await self._client.eval(_UNSTALL, 4, *keys, *arguments)
        return list(moved), list(lost)

    def _finish_keys(self, job: Job, target: str) -> tuple[str, ...]:
        names = (f"{job.id}:lock", "active", "stalled", target, job.id)
        return tuple(self.key(name) for name in names)

    async def _finish(self, job: Job, target: str, *, result: tuple[str, str], keep: int, made: int) -> None:
        arguments = (self._token, job.id, milliseconds(), *result, keep, self.key(""), made)
        await self._client.eval(_FINISH, 5, *self._finish_keys(job, target), *arguments)
