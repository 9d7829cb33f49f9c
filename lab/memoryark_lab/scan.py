"""Which TCP ports of a host answer, seen from outside: ``python -m memoryark_lab.scan ADDRESS [PORT …]``.

Without ports it tries all of them, and prints those that are open, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from collections.abc import Iterable

from memoryark_lab import network

ALL = range(1, 65536)
# Enough to be quick, and not so many that an emulated host loses packets.
AT_ONCE = 2000
# A port that drops never answers; one that is open does within this, also when the host is busy.
PATIENCE = 3.0


def open_ports(address: str, ports: Iterable[int] = ()) -> set[int]:
    """Return which of a host's ports are open to the world outside of it; all ports are tried without any."""
    command = [sys.executable, "-m", "memoryark_lab.scan", address, *map(str, ports)]
    done = subprocess.run(network.outside(command), capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


async def scan(address: str, ports: Iterable[int]) -> list[int]:
    """Return those of the ports that take a connection."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def is_open(port: int) -> bool:
        async with slots:
            try:
                _reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), PATIENCE)
            except OSError:
                # TimeoutError is one as well.
                return False
            writer.close()
            return True

    wanted = list(ports)
    found = await asyncio.gather(*(is_open(port) for port in wanted))
    return [port for port, answer in zip(wanted, found, strict=True) if answer]


def main() -> None:
    """Entry point outside of the hosts."""
    address, *ports = sys.argv[1:]
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * AT_ONCE), hard))
    json.dump(asyncio.run(scan(address, map(int, ports) if ports else ALL)), sys.stdout)


if __name__ == "__main__":
    main()
