"""Redis starts again whatever a power cut left at the end of its file, with all jobs before that."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from memoryark_lab.paths import REPO

START = REPO / "stack" / "redis" / "redis-start"
CONF = REPO / "stack" / "redis" / "redis.conf"
JOBS = ["job-1", "job-2", "job-3"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["redis-cli", "-p", str(port), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def redis(data: Path) -> Iterator[int]:
    """Redis as its image starts it, with its data in ``data``; yields the port."""
    port = free_port()
    # The image's own configuration, but for the place.
    conf = data / "redis.conf"
    conf.write_text(CONF.read_text().replace("dir /data", f"dir {data}"))
    command = [str(START), str(conf), "--port", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, env={"PATH": "/usr/bin:/bin", "REDIS_DATA": str(data)}) as process:
        deadline = time.monotonic() + 20
        while ask(port, "ping").stdout.strip() != "PONG":
            assert process.poll() is None, "Redis does not start"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        try:
            yield port
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The append-only file of a Redis that has three jobs."""
    with redis(tmp_path) as port:
        for job in JOBS:
            assert ask(port, "rpush", "queue", job).returncode == 0
    return next((tmp_path / "appendonlydir").glob("*.incr.aof"))


@pytest.mark.parametrize(
    ("tail", "cut"),
    [
        (b"", 0),
        (b"\0" * 100, 0),
        (b"*3\r\n$5\r\nrpush\r\n$5\r\nqu", 0),
        (b"*3\r\n$5\r\nrp\0\0\0\0", 0),
        (b"", 4),
    ],
    ids=["nothing", "zeros", "half a command", "half a command and zeros", "the last one cut short"],
)
def test_it_starts_with_every_whole_job(tmp_path: Path, file: Path, tail: bytes, cut: int) -> None:
    content = file.read_bytes()
    damaged = content[: len(content) - cut] + tail
    file.write_bytes(damaged)
    with redis(tmp_path) as port:
        assert ask(port, "lrange", "queue", "0", "-1").stdout.split() == (JOBS[:2] if cut else JOBS)
    kept = tmp_path / "appendonlydir.damaged" / file.name
    assert kept.exists() == (damaged != content)
    assert not kept.exists() or kept.read_bytes() == damaged
