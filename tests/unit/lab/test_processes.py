"""The lab recognises its processes by their arguments and ends them only while they are still the same."""

import os
import signal
import subprocess
import sys

import pytest
from memoryark_lab import processes


@pytest.mark.parametrize(
    ("raw", "argv"),
    [(b"", []), (b"a\0", ["a"]), (b"a\0b c\0", ["a", "b c"]), (b"a\0\0b\0", ["a", "", "b"])],
)
def test_the_kernel_separates_arguments_by_null(raw: bytes, argv: list[str]) -> None:
    assert processes.split_cmdline(raw) == argv


QEMU = ["/usr/bin/qemu-system-x86_64", "-name", "guest=a", "-pidfile", "/lab/a/qemu.pid"]


@pytest.mark.parametrize(
    ("argv", "program", "arguments", "expected"),
    [
        (QEMU, "qemu-system", ("-pidfile", "/lab/a/qemu.pid"), True),
        (QEMU, "qemu-system", (), True),
        (QEMU, "qemu-system", ("-pidfile", "/lab/b/qemu.pid"), False),
        (QEMU, "qemu-system", ("-name", "-pidfile"), False),
        (QEMU, "python", ("-pidfile", "/lab/a/qemu.pid"), False),
        (
            ["tail", "-f", "-pidfile", "/lab/a/qemu.pid"],
            "qemu-system",
            ("-pidfile", "/lab/a/qemu.pid"),
            False,
        ),
        ([], "qemu-system", (), False),
    ],
)
def test_a_process_is_known_by_program_and_arguments(
    argv: list[str], program: str, arguments: tuple[str, ...], expected: bool
) -> None:
    assert processes.is_program(argv, program, *arguments) is expected


def sleeper(*more: str) -> subprocess.Popen[bytes]:
    code = "import signal,sys,time\n" + "".join(more) + "print('up', flush=True)\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    return child


def test_a_process_that_ignores_the_first_signal_gets_the_second() -> None:
    with sleeper("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n") as child:
        assert processes.end(child.pid, lambda _: True, [signal.SIGTERM], patience=0.2) is False
        assert processes.end(child.pid, lambda _: True, [signal.SIGTERM, signal.SIGKILL], patience=0.2)
        assert processes.argv_of(child.pid) == []


def test_a_process_that_took_over_the_pid_is_left_alone() -> None:
    with sleeper() as child:
        assert processes.end(child.pid, lambda _: False, [signal.SIGKILL])
        assert child.poll() is None
        child.kill()


def test_a_process_that_has_gone_counts_as_ended() -> None:
    child = sleeper()
    child.kill()
    child.communicate()
    assert processes.end(child.pid, lambda _: True, [signal.SIGKILL])


def test_the_line_of_ancestors_holds_this_process_and_its_parent() -> None:
    assert {os.getpid(), os.getppid()} <= processes.ancestors(os.getpid())
