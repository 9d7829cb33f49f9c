"""Named disposable hosts: making, booting, freezing, breaking and removing them.

A host is a directory below ``STATE/hosts`` with its record, its disk and its console log. Whether it
runs is read from the process table alone, so a crashed run leaves nothing that could be wrong.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memoryark_lab import base_image, files, guest, network, processes, qemu, ssh
from memoryark_lab.errors import LabError
from memoryark_lab.paths import STATE
from memoryark_lab.progress import Progress

HOSTS = STATE / "hosts"
_LOCKS = STATE / "locks"

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
_TAG = re.compile(r"[a-z][a-z0-9_.-]{0,60}")
_MOST_HOSTS = 80

_BOOT_STEPS = 3
_PORT_TRIES = 3
_SSH_STARTED = b"Started \x1b[0;1;39mssh.service"


@dataclass(frozen=True)
class Record:
    """What is kept of a host between two runs of the lab."""

    name: str
    number: int
    memory_mb: int
    cpus: int
    disk_gb: int
    uuid: str
    ssh_port: int
    base: str
    kernel: str
    initrd: str
    namespace: str = ""

    def spec(self) -> qemu.Spec:
        """The virtual machine of this record."""
        return qemu.Spec(
            name=self.name,
            number=self.number,
            memory_mb=self.memory_mb,
            cpus=self.cpus,
            uuid=self.uuid,
            ssh_port=self.ssh_port,
            directory=HOSTS / self.name,
            monitor=files.runtime_dir() / f"{self.name}.qmp",
            kernel=Path(self.kernel),
            initrd=Path(self.initrd),
        )


@dataclass(frozen=True)
class Host:
    """A host as other code sees it."""

    record: Record

    @property
    def name(self) -> str:
        """Its name, which is also its name in the OpenSSH configuration."""
        return self.record.name

    @property
    def address(self) -> str:
        """Its IPv4 address on the lab's network."""
        return network.address(self.record.number)

    @property
    def address6(self) -> str:
        """Its IPv6 address on the lab's network."""
        return network.address6(self.record.number)

    @property
    def ssh_port(self) -> int:
        """The port of 127.0.0.1 that leads to its SSH server."""
        return self.record.ssh_port

    @property
    def console(self) -> Path:
        """The log of its serial console."""
        return HOSTS / self.name / "console.log"

    @property
    def state(self) -> str:
        """``running``, ``stopped``, or ``detached`` when it runs but the lab's network is gone."""
        if qemu.find(_pidfile(self.name)) is None:
            return "stopped"
        return "running" if self.record.namespace == network.identity() else "detached"

    def ssh_argv(self, argv: Sequence[str] = (), options: Sequence[str] = ()) -> list[str]:
        """The ssh command line that runs ``argv`` on the host, each argument arriving as it is."""
        alias = ssh.outside_alias(self.name) if network.is_outside() else self.name
        return ssh.argv(alias, [shlex.join(argv)] if argv else [], options)

    def ssh(
        self, argv: Sequence[str], check: bool = True, input: str | None = None, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` on the host as root and return its output.

        Raises LabError when ``check`` is set and it fails, or when it takes longer than ``timeout``
        seconds.
        """
        try:
            done = subprocess.run(
                self.ssh_argv(argv),
                input=input,
                stdin=subprocess.DEVNULL if input is None else None,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"{shlex.join(argv)} on {self.name} took longer than {timeout:.0f} s") from None
        if check and done.returncode != 0:
            raise LabError(
                f"{shlex.join(argv)} failed on {self.name} with code {done.returncode}: {done.stderr.strip()}"
            )
        return done

    def snapshots(self) -> list[str]:
        """The tags of its snapshots, oldest first."""
        return qemu.snapshots(self.record.spec().disk)

    def describe(self) -> dict[str, Any]:
        """All that another program needs to use the host, for ``lab status --json``."""
        return {
            "name": self.name,
            "state": self.state,
            "address": self.address,
            "address6": self.address6,
            "ports": {"22": self.ssh_port},
            "ssh": {
                "host": "127.0.0.1",
                "port": self.ssh_port,
                "user": ssh.USER,
                "key": str(ssh.KEY),
                "config": str(ssh.CONFIG),
            },
            "snapshots": self.snapshots(),
            "memory_mb": self.record.memory_mb,
            "cpus": self.record.cpus,
            "disk_gb": self.record.disk_gb,
        }


# --- Records


def check_name(name: str) -> str:
    """The name itself when a host may have it; LabError otherwise."""
    if not _NAME.fullmatch(name) or name.endswith("-outside"):
        raise LabError(f"{name!r} cannot be a host's name: use small letters, digits and dashes, e.g. web-1")
    return name


def check_tag(tag: str) -> str:
    """The tag itself when a snapshot may have it; LabError otherwise."""
    if not _TAG.fullmatch(tag):
        raise LabError(f"{tag!r} cannot be a snapshot's tag: use small letters, digits and dashes")
    return tag


def lowest_free(taken: set[int]) -> int:
    """The lowest host number that is not taken; LabError when the network is full."""
    for number in range(_MOST_HOSTS):
        if number not in taken:
            return number
    raise LabError("the lab's network is full: remove hosts with `lab down`")


def _pidfile(name: str) -> Path:
    return HOSTS / name / "qemu.pid"


def _record_path(name: str) -> Path:
    return HOSTS / name / "host.json"


def _load(name: str) -> Record | None:
    try:
        return Record(**json.loads(_record_path(name).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise LabError(
            f"the record of {name} cannot be read: remove the host with `lab down {name}`"
        ) from None


def _save(record: Record) -> Record:
    files.write(_record_path(record.name), json.dumps(asdict(record), indent=2) + "\n")
    return record


def names() -> list[str]:
    """The names of all hosts, sorted."""
    return sorted(path.parent.name for path in HOSTS.glob("*/host.json"))


def all_hosts() -> list[Host]:
    """All hosts, by name."""
    return [Host(record) for name in names() if (record := _load(name))]


def get(name: str) -> Host:
    """The host of this name; LabError when there is none."""
    record = _load(check_name(name))
    if record is None:
        raise LabError(f"there is no host {name}: make it with `lab up {name}`")
    return Host(record)


@contextmanager
def _busy(name: str) -> Iterator[None]:
    with files.locked(_LOCKS / f"{check_name(name)}.lock", f"host {name}"):
        yield


@contextmanager
def _allocating() -> Iterator[None]:
    with files.locked(STATE / "lab.lock", "the list of hosts"):
        yield


def _write_ssh_config() -> None:
    entries = []
    for host in all_hosts():
        directory = HOSTS / host.name / "host-keys"
        keys = {path.name: path.read_text() for path in directory.glob("*.pub")}
        entries.append(ssh.Entry(host.name, host.ssh_port, host.address, keys))
    ssh.write_config(entries)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# --- Making


def _create(name: str, memory_mb: int, cpus: int, disk_gb: int, base: base_image.BaseImage) -> Record:
    """Make record, keys and disk of a new host; the record comes last, without it there is no host."""
    if disk_gb < base_image.SIZE_GB:
        raise LabError(f"a disk of {disk_gb} GiB is too small: the image has {base_image.SIZE_GB} GiB")
    shutil.rmtree(HOSTS / name, ignore_errors=True)
    record = Record(
        name=name,
        number=lowest_free({host.record.number for host in all_hosts()}),
        memory_mb=memory_mb,
        cpus=cpus,
        disk_gb=disk_gb,
        uuid=str(uuid.uuid4()),
        ssh_port=_free_port(),
        base=str(base.disk),
        kernel=str(base.kernel),
        initrd=str(base.initrd),
    )
    spec = record.spec()
    host_keys = ssh.new_host_keys()
    for key, content in host_keys.items():
        files.write(spec.directory / "host-keys" / key, content, 0o600)
    told = guest.credentials(name, record.number, ssh.client_key(), host_keys)
    for credential, content in told.items():
        text = guest.smbios_string(credential, content)
        files.write(spec.directory / "credentials" / credential, text, 0o600)
    qemu.create_disk(spec.disk, base.disk, disk_gb)
    return _save(record)


def steps_up(name: str) -> int:
    """How many steps ``up`` will announce for this host as it is now."""
    record = _load(name)
    if record and Host(record).state == "running":
        return 1
    image_steps = 0 if record or base_image.present().complete() else base_image.STEPS
    return image_steps + (record is None) + _BOOT_STEPS


def up(
    name: str,
    memory_mb: int = 2048,
    cpus: int = 2,
    disk_gb: int = base_image.SIZE_GB,
    progress: Progress | None = None,
) -> Host:
    """Make the host when it is new, boot it when it does not run, and wait until it has booted.

    The sizes count for a new host only. Raises LabError, with the end of the console, when it does
    not come up.
    """
    with _busy(name):
        record = _load(name)
        if record and Host(record).state == "running":
            if progress is None:
                progress = Progress(1)
            with progress.step(f"{name}: already running, checking that it answers"):
                _wait_for_ssh(record)
            return Host(record)
        progress = progress or Progress(steps_up(name))
        if record is None:
            base = base_image.ensure(progress)
            with progress.step(f"{name}: disk and keys"), _allocating():
                qemu.kill(_pidfile(name))
                record = _create(name, memory_mb, cpus, disk_gb, base)
                _write_ssh_config()
        return _boot(record, progress)


# --- Booting


def _boot(record: Record, progress: Progress, snapshot: str | None = None) -> Host:
    """Start a host that is off (announces ``_BOOT_STEPS`` steps, one with a snapshot)."""
    how = qemu.machine()
    written = _console_size(record)
    hint = "about 40 s, emulated" if how.emulated else "about 10 s"
    with progress.step(f"{record.name}: power on" + (f" from snapshot {snapshot}" if snapshot else "")):
        record = _power_on(record, how, snapshot)
    if snapshot is None:
        with progress.step(f"{record.name}: waiting for SSH", hint):
            _wait_for_boot(record, written)
        with progress.step(f"{record.name}: waiting for the end of the boot", "a few seconds"):
            _finish_boot(Host(record))
    return Host(record)


def _power_on(record: Record, how: qemu.Machine, snapshot: str | None) -> Record:
    if network.is_outside():
        raise LabError("a host cannot be started from inside `lab outside`: it would have no way to Debian")
    if not Path(record.base).is_file():
        raise LabError(
            f"the base image of {record.name} is no longer in the cache: remove the host with "
            f"`lab down {record.name}` and make it again"
        )
    # It may still run without the network it was made for, after a crash.
    qemu.kill(_pidfile(record.name))
    ssh.close(record.name)
    for attempt in range(_PORT_TRIES):
        try:
            return _start(record, how, snapshot)
        except LabError as error:
            if "forwarding" not in str(error) or attempt + 1 == _PORT_TRIES:
                raise
    raise AssertionError("the loop returns or raises")


def _start(record: Record, how: qemu.Machine, snapshot: str | None) -> Record:
    with _allocating():
        port = record.ssh_port if _is_free(record.ssh_port) else _free_port()
        network.ensure()
        record = _save(replace(record, ssh_port=port, namespace=network.identity()))
        _write_ssh_config()
        spec = record.spec()
        spec.monitor.unlink(missing_ok=True)
        told = sorted((spec.directory / "credentials").iterdir())
        tap = network.open_tap(f"tap{record.number}")
        with _closing(tap):
            qemu.start(qemu.argv(spec, how, tap, told, snapshot), tap)
    return record


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    """Close a descriptor at the end."""
    try:
        yield
    finally:
        os.close(descriptor)


def _patience() -> float:
    """Seconds until a host that does not answer counts as broken."""
    return 300.0 if qemu.machine().emulated else 90.0


def _until(record: Record, what: str, done: Callable[[], bool], patience: float) -> None:
    """Wait for a condition of a running host; LabError with the end of its console otherwise."""
    deadline = time.monotonic() + patience
    while not done():
        if qemu.find(_pidfile(record.name)) is None:
            raise LabError(
                f"{record.name} ended while waiting for {what}; its console ends with\n{_tail(record)}"
            )
        if time.monotonic() > deadline:
            raise LabError(
                f"{record.name}: no {what} within {patience:.0f} s; "
                f"see `lab logs {record.name}`, which ends with\n{_tail(record)}"
            )
        time.sleep(0.3)  # between two looks at the condition


def console_tail(raw: bytes, lines: int = 15) -> str:
    """The last readable lines of a serial console, indented."""
    text = re.sub(
        r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\x00-\x08\x0b-\x1f\x7f]", "", raw.decode(errors="replace")
    )
    readable = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"  | {line}" for line in readable[-lines:])


def _tail(record: Record) -> str:
    with suppress(FileNotFoundError):
        return console_tail(record.spec().console.read_bytes())
    return "  | (nothing was written)"


def _console_size(record: Record) -> int:
    """How many bytes the console has so far."""
    with suppress(FileNotFoundError):
        return record.spec().console.stat().st_size
    return 0


def _console_shows(record: Record, after: int, words: bytes) -> bool:
    """Whether the console has these words behind the first ``after`` bytes."""
    with suppress(FileNotFoundError), record.spec().console.open("rb") as log:
        log.seek(after)
        return words in log.read()
    return False


def _wait_for_boot(record: Record, written: int) -> None:
    """Wait for SSH on a host that booted when its console had ``written`` bytes."""
    # Connections tried too early are kept by QEMU, reach the host all at once and hold it up. The
    # console says when to begin; should it never say so, try anyway.
    hurry = time.monotonic() + _patience() / 3
    _until(
        record,
        "SSH server",
        lambda: _console_shows(record, written, _SSH_STARTED) or time.monotonic() > hurry,
        _patience(),
    )
    _wait_for_ssh(record)


def _has_banner(port: int) -> bool:
    """Whether an SSH server greets on this port (QEMU accepts the connection long before one does)."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        return link.recv(4) == b"SSH-"
    return False


def _answers(host: Host) -> bool:
    if not network.is_outside() and not _has_banner(host.ssh_port):
        return False
    with suppress(LabError):
        return host.ssh(["true"], check=False, timeout=30).returncode == 0
    return False


def _wait_for_ssh(record: Record) -> None:
    _until(record, "answer by SSH", lambda: _answers(Host(record)), _patience())


def _finish_boot(host: Host) -> None:
    """Wait for the last unit of the boot, and give the file system the whole disk."""
    said = host.ssh(
        ["systemctl", "is-system-running", "--wait"], check=False, timeout=_patience()
    ).stdout.strip()
    if said != "running":
        failed = host.ssh(["systemctl", "--failed", "--plain", "--no-legend"], check=False).stdout.strip()
        print(f"{host.name} is {said or 'in an unknown state'}; failed units:\n{failed}", flush=True)
    if host.record.disk_gb > base_image.SIZE_GB:
        host.ssh(["resize2fs", "/dev/vda"])


def boot_id(host: Host) -> str:
    """What changes with every boot of the host; empty while it does not answer."""
    with suppress(LabError):
        return host.ssh(["cat", "/proc/sys/kernel/random/boot_id"], check=False, timeout=30).stdout.strip()
    return ""


# --- Using


def _running(name: str) -> Host:
    host = get(name)
    if host.state != "running":
        raise LabError(f"{name} is {host.state}: start it with `lab up {name}`")
    return host


def snapshot(name: str, tag: str, progress: Progress | None = None) -> None:
    """Freeze disk and memory of a running host under ``tag``; an older snapshot of that tag goes.

    Connections to the host must be over by then: the lab ends its own, and raises LabError for others.
    """
    check_tag(tag)
    with _busy(name):
        host = _running(name)
        progress = progress or Progress(1)
        with (
            progress.step(f"{name}: snapshot {tag}", "about 5 s"),
            qemu.Monitor(host.record.spec().monitor) as monitor,
        ):
            # Frozen with the host, a connection would wake up with no other end that knows it; guest
            # and QEMU can then throw acknowledgements at each other without end.
            ssh.close(name)
            _until(host.record, "end of the connections to it", lambda: not monitor.connections(), 20)
            monitor.human(f"savevm {tag}")


def has_snapshot(name: str, tag: str) -> bool:
    """Whether the host exists and has this snapshot."""
    record = _load(check_name(name))
    return record is not None and tag in Host(record).snapshots()


def restore(name: str, tag: str, progress: Progress | None = None) -> Host:
    """Bring disk and memory back to a snapshot, on a host that is off as well; its clock is set to now."""
    with _busy(name):
        host = get(name)
        if tag not in host.snapshots():
            raise LabError(f"{name} has no snapshot {tag}; it has: {', '.join(host.snapshots()) or 'none'}")
        progress = progress or Progress(2)
        # Always a new QEMU: one that runs on would remember connections that the host has forgotten.
        host = _boot(host.record, progress, tag)
        with progress.step(f"{name}: waiting for SSH, setting the clock"):
            _wait_for_ssh(host.record)
            host.ssh(["date", "--set", f"@{time.time():.2f}"])
        return host


def cut_power(name: str, progress: Progress | None = None) -> Host:
    """Pull the plug without warning and boot again from the same disk."""
    with _busy(name):
        host = _running(name)
        qemu.kill(_pidfile(name))
        return _boot(host.record, progress or Progress(_BOOT_STEPS))


def reboot(name: str, progress: Progress | None = None) -> Host:
    """Let the host reboot by itself and wait until it has."""
    with _busy(name):
        host = _running(name)
        progress = progress or Progress(2)
        before = boot_id(host)
        with progress.step(f"{name}: reboot, waiting for SSH", "about 50 s, emulated"):
            # The connection may break before the answer is through.
            host.ssh(["systemctl", "--no-block", "reboot"], check=False, timeout=60)
            _until(host.record, "second boot", lambda: _booted_anew(host, before), _patience())
        with progress.step(f"{name}: waiting for the end of the boot", "a few seconds"):
            _finish_boot(host)
        return host


def _booted_anew(host: Host, before: str) -> bool:
    if not _has_banner(host.ssh_port):
        return False
    now = boot_id(host)
    if now == before:
        # Going down still: a connection kept open would hang when it is gone.
        ssh.close(host.name)
    return now not in ("", before)


# --- Removing


def down(name: str, keep_disk: bool = False, progress: Progress | None = None) -> None:
    """Stop a host and remove it; with ``keep_disk`` shut it down properly and keep it."""
    with _busy(name):
        record = _load_or_none(name)
        if record is None and not (HOSTS / name).exists() and qemu.find(_pidfile(name)) is None:
            raise LabError(f"there is no host {name}; there are: {', '.join(names()) or 'none'}")
        progress = progress or Progress(1)
        with progress.step(f"{name}: down"):
            if keep_disk and record and qemu.find(_pidfile(name)):
                _shut_down(record)
            qemu.kill(_pidfile(name))
            ssh.close(name)
            (files.runtime_dir() / f"{name}.qmp").unlink(missing_ok=True)
            with _allocating():
                if not keep_disk:
                    shutil.rmtree(HOSTS / name, ignore_errors=True)
                _write_ssh_config()
    if not any(host.state != "stopped" for host in all_hosts()):
        network.release()


def _load_or_none(name: str) -> Record | None:
    """The record unless it is broken, which must not keep anybody from removing the host."""
    with suppress(LabError):
        return _load(name)
    return None


def _shut_down(record: Record) -> None:
    with suppress(LabError), qemu.Monitor(record.spec().monitor) as monitor:
        monitor.execute("system_powerdown")
        deadline = time.monotonic() + _patience()
        while qemu.find(_pidfile(record.name)) and time.monotonic() < deadline:
            time.sleep(0.3)  # between two looks at the condition


def left_behind() -> list[str]:
    """The names of all hosts of this checkout, whether by directory or by process."""
    directories = {path.name for path in HOSTS.glob("*") if path.is_dir()}
    return sorted(
        directories | {path.parent.name for path in _pidfiles_in_use() if path.parent.parent == HOSTS}
    )


def _pidfiles_in_use() -> Iterator[Path]:
    for pid in processes.find("qemu-system", "-pidfile"):
        argv = processes.argv_of(pid)
        if "-pidfile" in argv:
            yield Path(argv[argv.index("-pidfile") + 1])


def down_all(keep_disk: bool = False) -> None:
    """Stop and remove everything: no process, no namespace and no socket of the lab stays."""
    present = left_behind()
    progress = Progress(len(present) + 1)
    for name in present:
        down(name, keep_disk, progress)
    with progress.step("network"):
        network.release(everything=True)
        if not keep_disk:
            for path in (ssh.CONFIG, ssh.KNOWN_HOSTS, ssh.KEY, ssh.KEY.with_name(f"{ssh.KEY.name}.pub")):
                path.unlink(missing_ok=True)
        files.remove_runtime_dir()
