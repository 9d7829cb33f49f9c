"""Run the server."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

from aiohttp import web

from . import config, logs
from .migrations import MigrationError
from .store import Store
from .web import make_app


def die(number: int, _: FrameType | None) -> None:
    """End at once, in the middle of any request, as the real server does.

    A process that is PID 1 does not die of a signal without a handler; Go's runtime then exits with 2.
    """
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(2)


def main() -> None:
    """Read the environment, migrate, serve."""
    settings = config.load(os.environ)
    logs.to_file(settings.log_dir)
    log = logging.getLogger("logger")
    log.info("Logger initialized")
    store = Store(settings.database_path, settings.upload_path)
    try:
        store.migrate(settings.root_admin_email, settings.root_admin_name, settings.schema_version)
    except MigrationError as error:
        log.error("Failed to initialize database: %s", error)
        sys.exit(str(error))
    log.info("Database initialized successfully")
    signal.signal(signal.SIGTERM, die)
    signal.signal(signal.SIGINT, die)
    if not settings.release:
        print('[GIN-debug] [WARNING] Running in "debug" mode. Switch to "release" mode in production.')
    print(f"[GIN-debug] Listening and serving HTTP on :{settings.port}", flush=True)
    web.run_app(
        make_app(settings, store), port=settings.port, handle_signals=False, print=None, access_log=None
    )


if __name__ == "__main__":
    main()
