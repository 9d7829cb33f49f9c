"""A unit that is being started is given up when its health checks have failed for long enough."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.module_utils import host as host_module
from ansible_collections.memoryark.ops.plugins.module_utils import units
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError

LIMIT = 30.0
APP = "memoryark-app"


class Start:
    """A start of a unit, second by second: what systemd says of it, and the exit code of its last check.

    ``course`` has both for each second; the start ends well with it, if nobody stops the unit before.
    """

    def __init__(self, base: Path, course: Sequence[tuple[str, int | str | None]]) -> None:
        self.base, self.course = base, list(course)
        self.second = 0
        self.stopped_at: int | None = None

    def __call__(self, argv: list[str], **options: Any) -> tuple[int, str, str]:
        match argv[1]:
            case "show":
                state = "activating" if self.stopped_at is None else "inactive"
                sub = self.course[self.second][0]
                return 0, f"Id={APP}.service\nActiveState={state}\nSubState={sub}\n", ""
            case "--job-mode=replace-irreversibly":
                assert argv[2:] == ["stop", f"{APP}.service"]
                self.stopped_at = self.second
                return 0, "", ""
            case "restart":
                options["before_communicate_callback"](self)
                failed = self.stopped_at is not None
                return (1, "", "Job canceled.") if failed else (0, "", "")
        return 0, "its log", ""

    def poll(self) -> int | None:
        """As that of a process."""
        return 0 if self.stopped_at is not None or self.second + 1 == len(self.course) else None

    def wait(self, timeout: float) -> int:
        """As that of a process, which never ends while somebody waits."""
        self.second += 1
        self.note(self.course[self.second][1])
        raise subprocess.TimeoutExpired("systemctl", timeout)

    def note(self, code: int | str | None) -> None:
        """Let Podman note a health check, or half of one."""
        if code is None:
            return
        file = self.base / f"run/memoryark/health/{APP}/1-healthcheck.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        log = {"Log": [{"ExitCode": 0, "Output": ""}, {"ExitCode": code, "Output": "no queue\n"}]}
        file.write_text(json.dumps(log) if isinstance(code, int) else code)


@pytest.fixture
def restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Start]:
    def run(course: Sequence[tuple[str, int | str | None]], limits: dict[str, float]) -> Start:
        start = Start(tmp_path, course)
        monkeypatch.setattr(time, "monotonic", lambda: float(start.second))
        try:
            units.bring_up(Host(start, tmp_path), "restart", [APP], limits)
        except HostError as error:
            assert start.stopped_at is not None
            assert f"{APP} did not become healthy" in str(error)
            assert f"--- last health check of {APP}, exit code 1 ---\nno queue" in str(error)
        else:
            assert start.stopped_at is None
        return start

    return run


@pytest.mark.parametrize(
    ("course", "stopped_at"),
    [
        pytest.param([("start", 1)] * 60, 31, id="its checks fail from the first second on"),
        pytest.param([("start", None)] * 5 + [("start", 1)] * 60, 35, id="its first check comes late"),
        pytest.param([("start", None)] * 60, None, id="it is not checked at all"),
        pytest.param([("start", 1)] * 30 + [("start", 0)] * 30, None, id="healthy just in time"),
        pytest.param([("start", 1)] * 20 + [("running", 0)] * 60, None, id="healthy"),
        pytest.param([("start", 0)] + [("running", 1)] * 60, None, id="it fails when it has been started"),
        pytest.param(
            [("stop-sigterm", 1)] * 40 + [("start-pre", 1)] * 20 + [("start", 1)] * 60,
            90,
            id="what stands there from before does not count",
        ),
        pytest.param(
            [("start", 1)] * 20 + [("auto-restart", None)] * 2 + [("start", 1)] * 60,
            52,
            id="one that ended begins anew",
        ),
        pytest.param(
            [("start", 1)] * 10 + [("start", '{"Log": [')] * 5 + [("start", 1)] * 60,
            31,
            id="half a note tells nothing",
        ),
    ],
)
def test_a_start_is_given_up_when_checks_fail_for_the_limit(
    restart: Callable[..., Start], course: list[tuple[str, int | str | None]], stopped_at: int | None
) -> None:
    assert restart(course, {APP: LIMIT}).stopped_at == stopped_at


def test_without_a_limit_systemd_decides(restart: Callable[..., Start]) -> None:
    assert restart([("start", 1)] * 600, {}).stopped_at is None


def test_a_look_that_fails_leaves_it_to_systemd(tmp_path: Path) -> None:
    asked = []

    def refuse(argv: list[str], **_options: Any) -> tuple[int, str, str]:
        asked.append(argv)
        return 1, "", "no bus"

    units.patience(Host(refuse, tmp_path), {APP: LIMIT})()
    assert len(asked) == 1


def test_a_note_that_goes_while_it_is_read_fails_no_start(
    restart: Callable[..., Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_host: Host, name: str) -> dict[str, str]:
        raise FileNotFoundError(name)

    monkeypatch.setattr(Host, "tree", gone)
    assert restart([("start", 1)] * 60, {APP: LIMIT}).stopped_at is None


def test_something_is_done_while_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "_POLL", 0.01)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        calls: list[None] = []

        def meanwhile() -> None:
            calls.append(None)
            if len(calls) == 3:
                assert process.stdin is not None
                process.stdin.write(b"\n")
                process.stdin.flush()

        host_module.keep_calling(meanwhile, process)
        assert process.poll() == 0
    assert len(calls) >= 3
