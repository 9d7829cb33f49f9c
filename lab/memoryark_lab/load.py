"""Requests at a constant rate from outside of a host, and what became of each of them.

``with load.running(host, load.webhook(host.name)) as result:`` sends them while the block runs, from where
visitors are; ``result`` is complete when the block ends. The rate is kept whatever the answers do: a request
is sent when it is due and not when the one before it was answered, so that a service which stands still is
seen as many failures and long waits, and not as fewer requests.

Run as ``python -m memoryark_lab.load`` it reads a ``Load`` as one line of JSON, says ``ready`` after the
first answer, and writes its records as JSON when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

import aiohttp
from line_platform import events, sending, signature
from line_platform.courier import FixedResolver

from memoryark_lab import files, network, world
from memoryark_lab.authority import ensure_authority
from memoryark_lab.errors import LabError
from memoryark_lab.hosts import Host

RATE = 20.0
# A block that never ends must not send for ever.
MAX_SECONDS = 1800.0
TIMEOUT = 10.0
# LINE checks no destination when it tests a webhook; a receiver sees the form of one.
_BOT = f"U{0:032x}"


@dataclass(frozen=True)
class Request:
    """What is sent each time."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""


@dataclass(frozen=True)
class Load:
    """A request, ``rate`` times a second, for at most ``seconds``; each waits ``timeout`` seconds.

    ``addresses`` are those of names, ``ca`` is the file of the authority to trust for https.
    """

    request: Request
    addresses: Mapping[str, str] = field(default_factory=dict)
    ca: str = ""
    rate: float = RATE
    seconds: float = MAX_SECONDS
    timeout: float = TIMEOUT

    @property
    def count(self) -> int:
        """The most requests that are sent."""
        return round(self.rate * self.seconds)


@dataclass(frozen=True)
class Record:
    """One request.

    ``start`` is when it was due, by the machine's monotonic clock; ``latency`` the seconds from then to
    the whole answer, or to the error. ``status`` is 0 without an answer, then ``error`` names the reason.
    """

    start: float
    latency: float
    status: int
    error: str = ""

    @property
    def good(self) -> bool:
        """Whether a visitor got what was asked for."""
        return 200 <= self.status < 400


@dataclass
class Result:
    """What became of the requests, in the order in which they were due."""

    records: list[Record] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """The number of requests with a bad status or without an answer."""
        return sum(not record.good for record in self.records)

    @property
    def statuses(self) -> dict[str, int]:
        """How many requests ended in each status, or in each error by its name."""
        return dict(sorted(Counter(record.error or str(record.status) for record in self.records).items()))

    @property
    def gap_seconds(self) -> float:
        """The longest time in which requests failed; see ``longest_gap``."""
        return longest_gap(self.records)

    @property
    def latency_median(self) -> float:
        """Seconds; 0.0 without any request."""
        return statistics.median([record.latency for record in self.records] or [0.0])

    @property
    def latency_max(self) -> float:
        """Seconds; 0.0 without any request."""
        return max((record.latency for record in self.records), default=0.0)

    def slower_than(self, seconds: float) -> int:
        """The number of requests that were answered well, but not within ``seconds``."""
        return sum(record.good and record.latency > seconds for record in self.records)

    def save(self, path: Path) -> None:
        """Write all records as JSON."""
        files.write(path, json.dumps([asdict(record) for record in self.records]) + "\n")


def longest_gap(records: Sequence[Record]) -> float:
    """Return the longest time in seconds from a request that failed to the next one that was good.

    Without a later good one it lasts until the last failure was known. 0.0 when nothing failed.
    """
    ordered = sorted(records, key=lambda record: record.start)
    runs = [(good, list(run)) for good, run in groupby(ordered, key=lambda record: record.good)]
    followers = [run[0].start for _good, run in runs[1:]]
    last = max((record.start + record.latency for record in ordered), default=0.0)
    ends = [*followers, last]
    return max(
        (end - run[0].start for (good, run), end in zip(runs, ends, strict=False) if not good), default=0.0
    )


def webhook(host: str) -> Request:
    """The webhook without events by which LINE tests a bot, signed, to the bot on a host of the lab."""
    body = events.serialise(events.envelope(_BOT, []))
    secret = world.facts()["secrets"]["line_channel_secret"]
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": sending.USER_AGENT,
        "x-line-signature": signature.sign(secret, body),
    }
    return Request("POST", world.webhook_url(host), headers, body.decode())


def page(host: str, path: str = "/") -> Request:
    """A visitor's request to the archive on a host of the lab."""
    return Request("GET", f"https://{world.domain(host)}{path}")


@contextmanager
def running(
    host: Host,
    request: Request,
    *,
    rate: float = RATE,
    seconds: float = MAX_SECONDS,
    timeout: float = TIMEOUT,
) -> Iterator[Result]:
    """Send ``request`` to ``host`` while the block runs; what is yielded is complete after it.

    Raises LabError when the sender does not start or does not come to its end.
    """
    names = (world.domain(host.name), world.line_domain(host.name))
    load = Load(
        request,
        addresses=dict.fromkeys(names, host.address),
        ca=str(ensure_authority().certificate) if request.url.startswith("https:") else "",
        rate=rate,
        seconds=seconds,
        timeout=timeout,
    )
    result = Result()
    with subprocess.Popen(
        network.outside([sys.executable, "-m", "memoryark_lab.load"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as sender:
        assert sender.stdin and sender.stdout  # noqa: S101 - both are pipes, as asked for above
        try:
            # The request may carry a token or a signature: not on the command line.
            sender.stdin.write(json.dumps(asdict(load)) + "\n")
            if sender.stdout.readline() != "ready\n":
                raise LabError("the load does not start; what its sender says stands above")
            yield result
            sender.stdin.close()
            written = sender.stdout.read()
        finally:
            # Without effect on one that has ended.
            sender.kill()
    try:
        result.records += [Record(**record) for record in json.loads(written)]
    except ValueError:
        raise LabError("the load broke off; what its sender says stands above") from None


async def generate(load: Load, stop: asyncio.Event, answered: asyncio.Event | None = None) -> list[Record]:
    """Send requests until ``stop``, or until all were sent, and wait for their answers.

    What goes wrong with a request is in its record. ``answered`` is set when the first one has ended.
    """
    records: list[Record] = []
    trust = ssl.create_default_context(cafile=load.ca) if load.ca else True
    # Every request over a connection of its own: as visitors come, and no open connection hides a restart.
    connector = aiohttp.TCPConnector(
        resolver=FixedResolver(load.addresses), ssl=trust, force_close=True, limit=0
    )
    patience = aiohttp.ClientTimeout(total=load.timeout)

    async def send(session: aiohttp.ClientSession, due: float) -> None:
        status, error = 0, ""
        try:
            async with session.request(
                load.request.method,
                load.request.url,
                headers=load.request.headers,
                data=load.request.body.encode() or None,
                allow_redirects=False,
            ) as response:
                await response.read()
                status = response.status
        except (aiohttp.ClientError, OSError) as failure:
            error = type(failure).__name__
        records.append(Record(due, time.monotonic() - due, status, error))
        if answered is not None:
            answered.set()

    async with aiohttp.ClientSession(connector=connector, timeout=patience, trust_env=False) as session:
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(load.count):
                due = begun + number / load.rate
                if await _is_set_by(stop, due):
                    break
                group.create_task(send(session, due))
    return sorted(records, key=lambda record: record.start)


async def _is_set_by(stop: asyncio.Event, moment: float) -> bool:
    """Wait until ``moment`` by the monotonic clock, no longer when ``stop`` is set; tell whether it is."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), moment - time.monotonic())
    return stop.is_set()


async def _serve(load: Load) -> list[Record]:
    stop, answered = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(sys.stdin)
        stop.set()

    # Nothing more comes in: what can be read is the end, also that of a caller who died.
    loop.add_reader(sys.stdin, ended)
    work = asyncio.create_task(generate(load, stop, answered))
    first = asyncio.create_task(answered.wait())
    # One that cannot even begin has to say so, and not to wait for an answer.
    await asyncio.wait({work, first}, return_when=asyncio.FIRST_COMPLETED)
    first.cancel()
    if work.done():
        work.result()
    print("ready", flush=True)
    return await work


def main() -> None:
    """Entry point outside of the hosts."""
    raw = json.loads(sys.stdin.readline())
    load = Load(**{**raw, "request": Request(**raw["request"])})
    json.dump([asdict(record) for record in asyncio.run(_serve(load))], sys.stdout)


if __name__ == "__main__":
    main()
