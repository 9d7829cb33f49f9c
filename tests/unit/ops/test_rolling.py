"""When a container has nobody connected any more, and which lines of a proxy change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.memoryark.ops.plugins.module_utils import rolling
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host
from ansible_collections.memoryark.ops.plugins.module_utils.release import Unit

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
UNIT = Unit("memoryark-a", "a", "i", 0, "", "", rolling=True, ports=(3000,), grace=10.0)


def row(port: int, state: str, address: str = "0100007F") -> str:
    return f"   0: {address}:{port:04X} 0200007F:D431 {state} 00000000:00000000 00:00000000 00000000     0        0 4711\n"


@pytest.mark.parametrize(
    ("tcp", "tcp6", "connected"),
    [
        ("", "", False),
        (row(3000, "01"), "", True),
        # It listens, the other side has ended, it is another port.
        (row(3000, "0A") + row(3000, "06") + row(8080, "01"), "", False),
        ("", row(3000, "01", "0" * 32), True),
    ],
)
def test_connections_are_read_from_the_kernels_tables(
    tmp_path: Path, tcp: str, tcp6: str, connected: bool
) -> None:
    folder = tmp_path / "proc/7/net"
    folder.mkdir(parents=True)
    (folder / "tcp").write_text(HEAD + tcp)
    (folder / "tcp6").write_text(HEAD + tcp6)
    host = Host(lambda *_words, **_options: (0, "", ""), tmp_path)
    assert rolling.connected(host, "7", [3000]) is connected


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("busy_until", "patience", "waited"),
    [(0.0, 10.0, 3.0), (2.0, 10.0, 5.0), (60.0, 10.0, 10.0), (0.0, 1.0, 1.0)],
)
def test_quiet_is_quiet_for_a_while_and_patience_ends(
    monkeypatch: pytest.MonkeyPatch, busy_until: float, patience: float, waited: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(rolling, "time", clock)
    begun = clock.now
    rolling.wait_until_quiet(lambda: clock.now - begun < busy_until, patience)
    assert clock.now - begun == pytest.approx(waited, abs=0.5)


@pytest.mark.parametrize("running", [True, False])
def test_a_container_is_left_alone_until_its_last_connection_ended(
    monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr(rolling, "time", clock)
    monkeypatch.setattr(rolling, "main_process", lambda _host, name: "7" if running else "")
    asked: list[tuple[str, tuple[int, ...]]] = []

    def connected(_host: Host, process: str, ports: tuple[int, ...]) -> bool:
        asked.append((process, ports))
        return clock.now < 104.0

    monkeypatch.setattr(rolling, "connected", connected)
    rolling.drain(Host(lambda *_words, **_options: (0, "", "")), [UNIT, replace(UNIT, ports=())])
    assert set(asked) == ({("7", (3000,))} if running else set())
    assert clock.now == pytest.approx(107.0 if running else 100.0, abs=0.5)


PROXY = """upstream a {

    server 1; # instance memoryark-a
#    server 0; # instance memoryark-a-next
    server 9; # instance memoryark-b
}
"""


@pytest.mark.parametrize(
    ("serving", "lines"),
    [
        ({"memoryark-a"}, ["    server 1", "#    server 0", "    server 9"]),
        ({"memoryark-a-next"}, ["#    server 1", "    server 0", "    server 9"]),
        ({"memoryark-a", "memoryark-a-next"}, ["    server 1", "    server 0", "    server 9"]),
        # Nothing that it knows of serves: it goes on with what it has.
        ({"memoryark-a-2"}, ["    server 1", "#    server 0", "    server 9"]),
    ],
)
def test_a_proxys_lines(serving: set[str], lines: list[str]) -> None:
    text = rolling.sent_to(PROXY, {"memoryark-a", "memoryark-a-2", "memoryark-a-next"}, serving)
    assert [line.partition(";")[0] for line in text.splitlines() if "# instance" in line] == lines
    assert text.splitlines()[:2] == ["upstream a {", ""]


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(1, 1, [1]), (1, 5, [1]), (3, 1, [1, 1, 1]), (3, 2, [2, 1]), (3, 9, [2, 1]), (2, 2, [1, 1])],
)
def test_never_all_at_once(count: int, size: int, sizes: list[int]) -> None:
    units = [replace(UNIT, name=f"memoryark-a-{number}") for number in range(count)]
    found = list(rolling.batches(units, size))
    assert [len(batch) for batch in found] == sizes
    assert [unit for batch in found for unit in batch] == units
