"""What runs inside the lab's network namespace: its holder, and the opening of taps.

Run as ``python -m memoryark_lab.inside hold MARK`` (never ends by itself) and
``python -m memoryark_lab.inside tap NAME SOCKET_FD``.
"""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys

BRIDGE = "lab0"

_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000


def bridge_commands(addresses: list[str]) -> str:
    """Input for ``ip -batch -`` that makes the bridge with its addresses (``address/prefix``)."""
    lines = [
        "link set lo up",
        # Without snooping a host that just came up is found at once by IPv6 neighbour discovery.
        f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        # A fixed address: otherwise the bridge takes that of a tap and changes it with the next one.
        f"link set {BRIDGE} address 52:54:00:6d:61:01",
        *(f"addr add {address} dev {BRIDGE}{' nodad' if ':' in address else ''}" for address in addresses),
        f"link set {BRIDGE} up",
    ]
    return "\n".join(lines) + "\n"


def tap_commands(name: str) -> str:
    """Input for ``ip -batch -`` that plugs the tap into the bridge."""
    return f"link set {name} master {BRIDGE} up\n"


def tap_request(name: str) -> bytes:
    """The ``struct ifreq`` that asks the kernel for the tap ``name`` (at most 15 characters)."""
    return struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)


def _ip(commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)


def hold(addresses: list[str]) -> None:
    """Make the bridge, report ``ready`` on standard output and keep the namespace until killed."""
    _ip(bridge_commands(addresses))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    # The reader of that line goes away; nothing may be written there again.
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    signal.pause()


def open_tap(name: str, answer: socket.socket) -> None:
    """Open the tap ``name``, plug it into the bridge and send its descriptor over ``answer``.

    The tap disappears by itself when the last holder of the descriptor ends.
    """
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, _TUNSETIFF, tap_request(name))
    _ip(tap_commands(name))
    answer.sendmsg([b"t"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [tap]))])


def main(argv: list[str]) -> None:
    """Entry point inside the namespace."""
    match argv:
        case ["hold", _mark, *addresses]:
            hold(addresses)
        case ["tap", name, number]:
            open_tap(name, socket.socket(fileno=int(number)))
        case _:
            raise SystemExit("usage: hold MARK ADDRESS... | tap NAME SOCKET_FD")


if __name__ == "__main__":
    main(sys.argv[1:])
