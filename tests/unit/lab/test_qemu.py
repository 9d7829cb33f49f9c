"""Which machine is chosen, and what QEMU is told."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from memoryark_lab import qemu

TCG = "tcg,thread=multi,tb-size=1024"
V7 = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"
V10 = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"
KVM = qemu.Machine("kvm", "host")
EMULATED = qemu.Machine(TCG, "max")
OLD = qemu.Machine(TCG, "max,cx16=off", parallel=False)


@pytest.mark.parametrize(
    ("flags", "usable", "version", "machine"),
    [
        ("fpu vmx sse", True, V7, KVM),
        ("fpu svm sse", True, V10, KVM),
        ("fpu svm_lock", True, V7, OLD),
        ("fpu sse", True, V7, OLD),
        ("fpu vmx", False, V7, OLD),
        ("fpu vmx", False, V7.replace("7.2.22", "8.0.4"), OLD),
        ("fpu vmx", False, V7.replace("7.2.22", "8.1.0"), EMULATED),
        ("fpu vmx", False, V10, EMULATED),
        ("fpu", False, "something else", OLD),
    ],
)
def test_kvm_needs_processor_and_device(
    flags: str, usable: bool, version: str, machine: qemu.Machine
) -> None:
    cpuinfo = f"processor : 0\nflags\t\t: {flags}\nbugs : vmx svm\n"
    assert qemu.choose_machine(cpuinfo, usable, version) == machine


def test_an_emulator_that_confuses_processors_gives_a_guest_one() -> None:
    two = replace(SPEC, cpus=2)
    assert ("-smp", "1") in pairs(qemu.argv(two, OLD, 9, []))
    assert ("-smp", "2") in pairs(qemu.argv(two, EMULATED, 9, []))


SPEC = qemu.Spec(
    name="web",
    number=2,
    memory_mb=1024,
    cpus=1,
    uuid="6d61",
    ssh_port=2222,
    directory=Path("/state/hosts/web"),
    monitor=Path("/run/web.qmp"),
    kernel=Path("/cache/kernel"),
    initrd=Path("/cache/initrd"),
)


def pairs(argv: list[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(argv))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("-pidfile", "/state/hosts/web/qemu.pid"),
        ("-m", "1024"),
        ("-smp", "1"),
        ("-netdev", "tap,id=lab,fd=9,vhost=off"),
        ("-netdev", "user,id=egress,ipv6=off,hostfwd=tcp:127.0.0.1:2222-10.0.2.15:22"),
        ("-smbios", "type=11,path=/state/hosts/web/credentials/a"),
        ("-loadvm", "clean"),
    ],
)
def test_the_command_line_has(option: str, value: str) -> None:
    argv = qemu.argv(SPEC, EMULATED, 9, [Path("/state/hosts/web/credentials/a")], "clean")
    assert (option, value) in pairs(argv)


def test_a_cold_boot_loads_no_snapshot() -> None:
    assert "-loadvm" not in qemu.argv(SPEC, EMULATED, 9, [])


def test_what_the_guest_has_synced_must_be_on_the_disk() -> None:
    argv = qemu.argv(SPEC, EMULATED, 9, [])
    drive = argv[argv.index("-drive") + 1]
    assert "cache=writeback" in drive
    assert "unsafe" not in drive


def test_no_key_is_visible_in_the_list_of_processes() -> None:
    assert "PRIVATE" not in " ".join(qemu.argv(SPEC, EMULATED, 9, [Path("/a")]))


def test_two_hosts_have_different_cards() -> None:
    other = replace(SPEC, number=3)
    macs = [{w for w in qemu.argv(one, EMULATED, 9, []) if "mac=" in w} for one in (SPEC, other)]
    assert not macs[0] & macs[1]


def test_guards_of_the_processor_stay_on_a_real_one() -> None:
    assert "mitigations" in qemu.kernel_arguments(EMULATED)
    assert "mitigations" not in qemu.kernel_arguments(qemu.Machine("kvm", "host"))


@pytest.mark.parametrize(
    ("info", "names"),
    [({}, []), ({"snapshots": [{"name": "a", "id": "1"}, {"name": "b", "id": "2"}]}, ["a", "b"])],
)
def test_snapshots_are_read_from_the_image(info: dict[str, object], names: list[str]) -> None:
    assert qemu.snapshot_names(info) == names


def test_only_open_connections_count() -> None:
    usernet = """Hub -1 (egress):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   29       127.0.0.1 57007       10.0.2.15    22     0     0
  TCP[TIME_WAIT]     30       127.0.0.1 57007       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  14       127.0.0.1 57007       10.0.2.15    22     0     0
  UDP[236 sec]       35       10.0.2.15 41234        10.0.2.3    53     0     0
"""
    assert [line.split()[0] for line in qemu.open_connections(usernet)] == ["TCP[ESTABLISHED]"]
    assert qemu.open_connections("") == []
