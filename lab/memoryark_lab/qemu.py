"""QEMU: which accelerator works here, the command line of a host, and its monitor."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memoryark_lab import guest, processes
from memoryark_lab.errors import LabError

PROGRAM = "qemu-system-x86_64"


@dataclass(frozen=True)
class Machine:
    """How the virtual machines are run here."""

    accelerator: str
    cpu: str
    parallel: bool = True
    """Whether several processors of a guest may run at the same time."""

    @property
    def emulated(self) -> bool:
        """Whether every instruction is emulated, which makes all waiting about ten times longer."""
        return self.accelerator != "kvm"


@dataclass(frozen=True)
class Spec:
    """One virtual machine: paths are absolute, memory is in MiB."""

    name: str
    number: int
    memory_mb: int
    cpus: int
    uuid: str
    ssh_port: int
    directory: Path
    monitor: Path
    kernel: Path
    initrd: Path

    @property
    def disk(self) -> Path:
        """The host's own disk, on top of the shared image."""
        return self.directory / "disk.qcow2"

    @property
    def console(self) -> Path:
        """What the host wrote to its serial console, of all boots."""
        return self.directory / "console.log"

    @property
    def pidfile(self) -> Path:
        """Written by QEMU; the lab knows the process by this argument, not by its content."""
        return self.directory / "qemu.pid"


def choose_machine(cpuinfo: str, kvm_usable: bool, version: str) -> Machine:
    """The machine for a host with this ``/proc/cpuinfo`` and this ``--version`` output of QEMU.

    A /dev/kvm without processor support exists on nested machines and crawls, so the processor has
    the first word.
    """
    flags = {flag for line in cpuinfo.splitlines() if line.startswith("flags") for flag in line.split()}
    if kvm_usable and flags & {"vmx", "svm"}:
        return Machine("kvm", "host")
    found = re.search(r"version (\d+)\.(\d+)", version)
    major, minor = (int(found[1]), int(found[2])) if found else (0, 0)
    # Before 8.1 QEMU could go on with code that another processor had changed in the meantime, as kernels
    # do to their own: "Oops: int3". And it emulated 16-byte atomics wrongly on several processors.
    # Leave its other features alone: with svm=off the guest comes up unable to mount anything.
    parallel = (major, minor) >= (8, 1)
    return Machine("tcg,thread=multi,tb-size=1024", "max" if parallel else "max,cx16=off", parallel)


def machine() -> Machine:
    """The machine for this very computer; LabError when QEMU is missing."""
    try:
        version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise LabError(f"{PROGRAM} is missing here: run lab/install-debian-packages") from None
    return choose_machine(
        Path("/proc/cpuinfo").read_text(), os.access("/dev/kvm", os.R_OK | os.W_OK), version
    )


def kernel_arguments(how: Machine) -> str:
    """The kernel's command line."""
    usual = "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=1"
    # Guards against a processor's side channels, and drivers for one, only cost time when it is emulated.
    return f"{usual} mitigations=off modprobe.blacklist=kvm_amd,kvm,powernow_k8" if how.emulated else usual


def argv(
    spec: Spec, how: Machine, tap: int, credentials: Sequence[Path], snapshot: str | None = None
) -> list[str]:
    """The command line of one host; ``tap`` is the descriptor of its card on the lab's network."""
    devices = (
        "virtio-rng-pci",
        "virtio-blk-pci,drive=disk",
        f"virtio-net-pci,netdev=egress,mac={guest.egress_mac(spec.number)},addr=0x10,romfile=",
        f"virtio-net-pci,netdev=lab,mac={guest.lab_mac(spec.number)},addr=0x11,romfile=",
    )
    forward = f"hostfwd=tcp:127.0.0.1:{spec.ssh_port}-{guest.EGRESS_ADDRESS}:22"
    return [
        PROGRAM,
        *("-name", f"guest={spec.name}"),
        *("-pidfile", str(spec.pidfile)),
        *("-machine", "pc"),
        *("-accel", how.accelerator),
        *("-cpu", how.cpu),
        *("-smp", str(spec.cpus if how.parallel else 1)),
        *("-m", str(spec.memory_mb)),
        *("-uuid", spec.uuid),
        *("-rtc", "base=utc"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-daemonize"),
        *("-kernel", str(spec.kernel)),
        *("-initrd", str(spec.initrd)),
        *("-append", kernel_arguments(how)),
        *(word for path in credentials for word in ("-smbios", f"type=11,path={path}")),
        # Writeback: what the guest has synced is on the disk, what it has not may be lost. That is
        # what pulling the plug means.
        "-drive",
        f"id=disk,if=none,file={spec.disk},format=qcow2,cache=writeback,discard=unmap,detect-zeroes=unmap",
        *("-netdev", f"user,id=egress,ipv6=off,{forward}"),
        *("-netdev", f"tap,id=lab,fd={tap},vhost=off"),
        *(word for device in devices for word in ("-device", device)),
        *("-chardev", f"file,id=console,path={spec.console},append=on"),
        *("-serial", "chardev:console"),
        *("-qmp", f"unix:{spec.monitor},server=on,wait=off"),
        *(("-loadvm", snapshot) if snapshot else ()),
    ]


def _mark(pidfile: Path) -> tuple[str, str, str]:
    return "qemu-system", "-pidfile", str(pidfile)


def find(pidfile: Path) -> int | None:
    """The process of the host with this pidfile, or None when it does not run."""
    return next(iter(processes.find(*_mark(pidfile))), None)


def kill(pidfile: Path) -> None:
    """End the host at once, as if its plug was pulled. LabError when it cannot be ended."""
    for pid in processes.find(*_mark(pidfile)):
        ended = processes.end(
            pid, lambda one: processes.is_program(processes.argv_of(one), *_mark(pidfile)), [signal.SIGKILL]
        )
        if not ended:
            raise LabError(f"QEMU process {pid} does not end; end it as the user who started it")
    pidfile.unlink(missing_ok=True)


def start(command: Sequence[str], tap: int) -> None:
    """Start QEMU in the background; LabError with its own words when it refuses."""
    done = subprocess.run(
        command,
        pass_fds=[tap],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"QEMU does not start: {done.stderr.strip() or f'exit code {done.returncode}'}")


def create_disk(disk: Path, base: Path, size_gb: int) -> None:
    """Make an empty layer of ``size_gb`` GiB on top of the image ``base``."""
    done = subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(disk), f"{size_gb}G"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"the disk {disk} cannot be made: {done.stderr.strip()}")


def snapshots(disk: Path) -> list[str]:
    """The tags of the snapshots in ``disk``, oldest first; works while the host runs."""
    done = subprocess.run(
        ["qemu-img", "info", "--force-share", "--output=json", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"the disk {disk} cannot be read: {done.stderr.strip()}")
    return snapshot_names(json.loads(done.stdout))


def snapshot_names(info: Mapping[str, Any]) -> list[str]:
    """The snapshot tags in the parsed output of ``qemu-img info``."""
    return [str(one["name"]) for one in info.get("snapshots", [])]


class Monitor:
    """A connection to the control socket of a running QEMU (QMP)."""

    def __init__(self, path: Path, patience: float = 300.0) -> None:
        """Connect; ``patience`` is how many seconds a command may take. LabError when nobody answers."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(patience)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise LabError(f"the monitor of the host does not answer at {path}: {error.strerror}") from None
        self._lines = self._socket.makefile("r")
        self._lines.readline()  # the greeting
        self.execute("qmp_capabilities")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def execute(self, command: str, **arguments: object) -> Any:
        """Run one QMP command and return its answer; LabError with QEMU's words when it is refused."""
        request = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            line = self._lines.readline()
            if not line:
                raise LabError(f"QEMU ended while it was to do {command}")
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"QEMU refuses {command}: {answer['error']['desc']}")

    def ask(self, line: str) -> str:
        """Run a command of the human monitor and return what it prints."""
        return str(self.execute("human-monitor-command", **{"command-line": line})).strip()

    def human(self, line: str) -> None:
        """Run a command of the human monitor that answers nothing when it succeeds."""
        if said := self.ask(line):
            raise LabError(f"QEMU cannot do {line!r}: {said}")

    def connections(self) -> list[str]:
        """The open TCP connections through the user-mode network, one line each."""
        return open_connections(self.ask("info usernet"))


def open_connections(usernet: str) -> list[str]:
    """The lines of ``info usernet`` that are open TCP connections: neither listening nor over."""
    found = (re.match(r"TCP\[(\w+)\]", line.strip()) for line in usernet.splitlines())
    return [one.string for one in found if one and one[1] not in {"HOST_FORWARD", "TIME_WAIT", "CLOSED"}]
