"""What one host is told at boot: its name, its keys and its network, as systemd credentials.

Nothing of it is in the disk image. ``systemd.system-credentials(7)`` describes the names used here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from memoryark_lab import network

EGRESS_ADDRESS = "10.0.2.15"
EGRESS_GATEWAY = "10.0.2.2"
_EGRESS_DNS = "10.0.2.3"


def egress_mac(number: int) -> str:
    """The hardware address of the card towards Debian's archives and the control machine."""
    return f"52:54:00:00:02:{number:02x}"


def lab_mac(number: int) -> str:
    """The hardware address of the card on the lab's network."""
    return f"52:54:00:6d:61:{0x10 + number:02x}"


def egress_network(number: int) -> str:
    """The systemd-networkd unit of the card with the default route."""
    return (
        f"[Match]\nMACAddress={egress_mac(number)}\n\n"
        f"[Network]\nAddress={EGRESS_ADDRESS}/24\nGateway={EGRESS_GATEWAY}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )


def lab_network(number: int) -> str:
    """The systemd-networkd unit of the card on the lab's network."""
    return (
        f"[Match]\nMACAddress={lab_mac(number)}\n\n"
        f"[Network]\nAddress={network.address(number)}/{network.LENGTH4}\n"
        f"Address={network.address6(number)}/{network.LENGTH6}\nIPv6AcceptRA=no\n"
    )


def first_boot_files(name: str, host_keys: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Path to (mode, content) of the files a host gets when it does not have them yet."""
    hosts = f"127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n"
    return {
        "/etc/hostname": ("0644", f"{name}\n"),
        "/etc/hosts": ("0644", hosts),
        "/etc/resolv.conf": ("0644", f"nameserver {_EGRESS_DNS}\n"),
        **{
            f"/etc/ssh/{key}": ("0644" if key.endswith(".pub") else "0600", content)
            for key, content in host_keys.items()
        },
    }


def tmpfiles(wanted: Mapping[str, tuple[str, str]]) -> str:
    """Lines of ``tmpfiles.d(5)`` that make these files where they are missing, owned by root."""
    return "".join(
        f"f~ {path} {mode} root root - {base64.b64encode(content.encode()).decode()}\n"
        for path, (mode, content) in wanted.items()
    )


def credentials(name: str, number: int, public_key: str, host_keys: Mapping[str, str]) -> dict[str, str]:
    """All credentials of host ``number``: credential name to content."""
    return {
        "system.hostname": name,
        "ssh.authorized_keys.root": public_key,
        "network.network.10-egress": egress_network(number),
        "network.network.20-lab": lab_network(number),
        "tmpfiles.extra": tmpfiles(first_boot_files(name, host_keys)),
    }


def smbios_string(name: str, content: str) -> str:
    """The SMBIOS OEM string that carries one credential."""
    return f"io.systemd.credential.binary:{name}={base64.b64encode(content.encode()).decode()}"
