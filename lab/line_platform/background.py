"""The stand-in inside a test's own process, on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from line_platform.client import Control
from line_platform.server import Options, running


@contextmanager
def serve(options: Options) -> Iterator[Control]:
    """Run the stand-in while the block runs; yields its control.

    Raises ControlError when it cannot start.
    """
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    started = threading.Event()
    failure: list[BaseException] = []

    async def run() -> None:
        try:
            async with running(options):
                started.set()
                await stop.wait()
        except BaseException as error:
            failure.append(error)
            raise
        finally:
            started.set()

    def work() -> None:
        try:
            loop.run_until_complete(run())
        except Exception:  # noqa: S110 - reported by the waiting thread, from ``failure``
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=work, name="line-platform", daemon=True)
    thread.start()
    started.wait(timeout=30)
    if failure:
        thread.join(timeout=10)
        raise failure[0]
    try:
        yield Control(options.control_socket)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)
