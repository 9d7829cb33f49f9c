"""Answers and asks on sockets, in whatever network namespace it is started. Nothing is written anywhere.

``serve [[PROTOCOL, ADDRESS, PORT], …]`` answers until it is ended; ``ask [[PROTOCOL, ADDRESS, PORT], …]``
prints which of them answered, in the order of the questions.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

# On one machine an answer takes milliseconds; a packet that is dropped is never answered.
PATIENCE = 1.5
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
Place = tuple[str, str, int]


def opened(protocol: str, address: str) -> socket.socket:
    """A socket of the kind."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.socket(family, KINDS[protocol])


def serve(places: list[Place]) -> None:
    """Answer at all places."""
    selector = selectors.DefaultSelector()
    for protocol, address, port in places:
        one = opened(protocol, address)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, port))
        if protocol == "tcp":
            one.listen(100)
        selector.register(one, selectors.EVENT_READ, protocol)
    print("ready", flush=True)
    while True:
        for key, _events in selector.select():
            listening = key.fileobj
            assert isinstance(listening, socket.socket)
            if key.data == "tcp":
                accepted, _peer = listening.accept()
                accepted.sendall(b"here")
                accepted.close()
            else:
                _data, peer = listening.recvfrom(100)
                listening.sendto(b"here", peer)


def ping(address: str) -> bool:
    """Whether an echo request is answered (RFC 792, RFC 4443)."""
    six = ":" in address
    # Type, code, checksum, identifier and number; for IPv6 the kernel puts the checksum in.
    request, reply = (
        (bytes([128, 0, 0, 0, 0, 1, 0, 1]), 129) if six else (bytes([8, 0, 0xF7, 0xFD, 0, 1, 0, 1]), 0)
    )
    family, protocol = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    )
    with socket.socket(family, socket.SOCK_RAW, protocol) as one:
        one.settimeout(PATIENCE)
        one.connect((address, 0))
        one.send(request)
        try:
            while True:
                answer = one.recv(200)
                # A raw socket for IPv4 shows the header of 20 bytes, and hears everything.
                if answer[0 if six else 20] == reply:
                    return True
        except OSError:
            return False


def ask(place: Place) -> bool:
    """Whether somebody answers."""
    protocol, address, port = place
    if protocol == "icmp":
        return ping(address)
    with opened(protocol, address) as one:
        one.settimeout(PATIENCE)
        try:
            one.connect((address, port))
            if protocol == "udp":
                one.send(b"?")
            return one.recv(10) == b"here"
        except OSError:
            return False


if __name__ == "__main__":
    wanted = [(protocol, address, int(port)) for protocol, address, port in json.loads(sys.argv[2])]
    if sys.argv[1] == "serve":
        serve(wanted)
    with ThreadPoolExecutor(len(wanted)) as pool:
        print(json.dumps(list(pool.map(ask, wanted))))
