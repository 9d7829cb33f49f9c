"""Run the service."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import cast

import redis.asyncio
from aiohttp import web
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from . import config
from .bull import Client
from .clients import Line, MemoryArk, session
from .logs import Log
from .web import Service
from .workers import Bot

GRACE_SECONDS = 10


async def serve(settings: config.Config, log: Log) -> int:
    """Serve until a signal; returns the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    client = redis.asyncio.Redis(
        host=settings.redis_host,
        port=settings.redis_port,
        decode_responses=True,
        socket_connect_timeout=5,
        retry=Retry(NoBackoff(), 1),
    )
    async with session(settings) as http:
        line, ark = Line(settings, http, log), MemoryArk(settings, http, log)
        bot = Bot(cast(Client, client), line, ark, log, settings.lock_ms)
        runner = web.AppRunner(Service(settings, line, ark, bot, log).app(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, port=settings.port)
        await site.start()
        bot.start()
        print(f"🚀 MemoryArk LINE Service is running on port {settings.port}", flush=True)
        if not await ark.is_healthy():
            message = "MemoryArk API connection test failed - service may not be available"
            log.write("warn", "system", message)
        await stop.wait()

        async def close() -> None:
            await site.stop()
            await runner.shutdown()
            await bot.stop()
            await runner.cleanup()

        try:
            await asyncio.wait_for(close(), GRACE_SECONDS)
        except TimeoutError:
            log.write("error", "system", "Forced shutdown due to timeout")
            # Jobs in hand stay in the active list; a later worker finds them stalled.
            sys.stdout.flush()
            os._exit(1)
        await client.aclose()
    return 0


def main() -> int:
    """Read the environment and serve."""
    try:
        settings = config.load(os.environ)
    except config.ConfigError as error:
        print(f"❌ Failed to start MemoryArk LINE Service:\n{error}", file=sys.stderr)
        return 1
    log = Log(Path("logs"), settings.environment)
    log.open()
    return asyncio.run(serve(settings, log))


if __name__ == "__main__":
    sys.exit(main())
