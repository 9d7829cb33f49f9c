"""``python -m line_platform``: run the stand-in until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from line_platform.errors import ControlError
from line_platform.server import Options, running


def parse_listen(text: str) -> tuple[str, int]:
    """Read ``ADDRESS:PORT``; an IPv6 address stands in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT")
    return host.strip("[]"), int(port)


def parse_name(text: str) -> tuple[str, str]:
    """Read ``NAME=ADDRESS``."""
    name, equals, address = text.partition("=")
    if not (name and equals and address):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=ADDRESS")
    return name, address


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m line_platform", description="A stand-in for api.line.me and api-data.line.me."
    )
    parser.add_argument("--state-dir", type=Path, required=True, help="for the socket and requests.jsonl")
    parser.add_argument("--listen", type=parse_listen, required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--certificate", type=Path, help="full chain in PEM; plain HTTP without it")
    parser.add_argument("--key", type=Path, help="private key in PEM")
    parser.add_argument("--ca", type=Path, help="authority that webhook receivers must be certified by")
    parser.add_argument("--control-socket", type=Path, help="default: control.sock in the state directory")
    parser.add_argument(
        "--resolve",
        type=parse_name,
        action="append",
        default=[],
        metavar="NAME=ADDRESS",
        help="a name that webhooks may go to; no other name is looked up anywhere",
    )
    given = parser.parse_args(arguments)
    host, port = given.listen
    return Options(
        state=given.state_dir,
        host=host,
        port=port,
        certificate=given.certificate,
        key=given.key,
        ca=given.ca,
        socket=given.control_socket,
        names=dict(given.resolve),
    )


async def run(options: Options) -> None:
    """Run until asked to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(options) as listening:
        print(f"line platform listening on {listening}, control {options.control_socket}", flush=True)
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 after a wanted stop, 1 when it could not start (argparse leaves with 2)."""
    options = parse_options(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(options))
    except ControlError as error:
        print(f"line_platform: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
