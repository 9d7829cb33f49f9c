#!/usr/bin/python
# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Looks for everything on a host that would make a deployment fail."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_check
short_description: Look for everything on a host that would make a deployment fail
version_added: "0.1.0"
description:
  - Reads only. Returns all problems at once and never fails because of them.
  - Usually called through the M(memoryark.ops.preflight) action, which adds the problems of the inventory.
options:
  root:
    description: Host directory of data and configuration; its file system must have room.
    type: path
    required: true
  ports:
    description: TCP ports that the containers will publish.
    type: list
    elements: int
    default: []
  names:
    description: Host names that must resolve.
    type: list
    elements: str
    default: []
  images:
    description: Image references at registries, with digest or tag, by the setting that names them.
    type: dict
    default: {}
  update_tags:
    description: Whether tags are resolved anew that were recorded with the last release.
    type: bool
    default: false
  insecure_registries:
    description: Registries that are spoken to without TLS.
    type: list
    elements: str
    default: []
  paths:
    description: Files of which it is to be told whether they are there.
    type: list
    elements: path
    default: []
  memory_needed:
    description: Bytes of memory that the containers reserve.
    type: int
    default: 0
  disk_needed:
    description: Bytes that must be free where the data is, and where Podman keeps images.
    type: int
    default: 0
  timezone:
    description: The time zone that the host is to have.
    type: str
    default: ""
attributes:
  check_mode:
    description: The module only reads.
    support: full
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Look at the host
  memoryark.ops.host_check:
    root: /srv/memoryark
    ports: [80, 443]
"""

RETURN = r"""
time:
  description: The host's clock, in seconds since the epoch, at some moment while the module ran.
  returned: success
  type: float
version:
  description: Version of the project that the host was last deployed with, null before the first deployment.
  returned: success
  type: int
tags:
  description: The digests for which image references with a tag stand.
  returned: success
  type: dict
absent:
  description: Those of O(paths) that are not there.
  returned: success
  type: list
  elements: str
packages:
  description: The installed packages by name, as M(ansible.builtin.package_facts) has them.
  returned: success
  type: dict
problems:
  description: What is wrong, each with the way to mend it.
  returned: success
  type: list
  elements: dict
  contains:
    where:
      description: The setting or the part of the host.
      type: str
    what:
      description: What is wrong.
      type: str
"""

import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from hashlib import md5
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils import nftables
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.images import recorded_tags
from ansible_collections.memoryark.ops.plugins.module_utils.plan import by_digest
from ansible_collections.memoryark.ops.plugins.module_utils.registry import (
    RegistryError,
    check_image,
    resolve_tag,
)
from ansible_collections.memoryark.ops.plugins.module_utils.sockets import LISTENING, TABLES, local_ports
from ansible_collections.memoryark.ops.plugins.module_utils.store import Store

PODMAN_FLOOR = (5, 4)
# The kernel, systemd and the page cache need room beside the containers.
MEMORY_FOR_THE_HOST = 256 * 2**20
# Where Podman keeps images, containers and volumes.
CONTAINERS = "/var/lib/containers"
ZONES = "/usr/share/zoneinfo"


def os_problem(release: str) -> str:
    """Return what is wrong with the text of os-release."""
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', release, re.MULTILINE))
    if fields.get("ID") == "debian" and fields.get("VERSION_ID") == "13":
        return ""
    return f"this is {fields.get('PRETTY_NAME', 'an unknown system')}; a server with Debian 13 is needed"


def installed_packages(host: Host) -> dict[str, str]:
    """Return the version of each package that is installed, by name."""
    shown = host.run(["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package} ${Version}\n"])
    found = (line.split(" ", 2) for line in shown.splitlines())
    return {name: version for status, name, version in found if status == "installed"}


def podman_policy(host: Host, packages: Mapping[str, str]) -> str:
    """Return which Podman is installed, or which apt offers, in the words of ``apt-cache policy``."""
    # To open all of apt's lists takes seconds.
    if "podman" in packages:
        return f"Installed: {packages['podman']}"
    return host.run(["apt-cache", "policy", "podman"], env={"LC_ALL": "C"})


def podman_problem(policy: str) -> str:
    """Return what is wrong with the Podman that ``podman_policy`` found."""
    found = re.search(r"Installed: (?!\(none\))(\S+)", policy) or re.search(
        r"Candidate: (?!\(none\))(\S+)", policy
    )
    if found is None:
        return "apt offers no podman; enable Debian's main archive and run apt update"
    version = tuple(int(part) for part in re.findall(r"\d+", found[1].partition("+")[0])[:2])
    return (
        "" if version >= PODMAN_FLOOR else f"podman {found[1]} is older than 5.4; Debian 13 has the right one"
    )


def room_problem(what: str, have: int, need: int) -> str:
    """Return what is wrong with ``have`` bytes where ``need`` bytes are needed."""
    mebibyte = 2**20
    return "" if have >= need else f"{have // mebibyte} MiB of {what}, {need // mebibyte} MiB are needed"


def memory_bytes(meminfo: str) -> int:
    """Return the memory of the host from the text of /proc/meminfo."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def socket_owner(inode: str) -> str:
    """Return the name of the program that has a socket open, empty if it is gone."""
    wanted = f"socket:[{inode}]"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(handle.readlink()) == wanted for handle in (process / "fd").iterdir()):
                return (process / "comm").read_text(encoding="utf-8").strip()
        except OSError:
            continue
    return ""


def port_problems(host: Host, ports: list[int]) -> Iterator[tuple[str, str]]:
    """Yield the ports that something other than a container holds."""
    taken: dict[int, str] = {}
    for table in TABLES:
        taken |= local_ports(host.read(f"/proc/net/{table}") or "", LISTENING)
    for port in ports:
        owner = socket_owner(taken[port]) if port in taken else ""
        # conmon keeps the ports of running containers reserved.
        if owner and owner != "conmon":
            yield f"port {port}", f"is taken by {owner}; stop and disable that service"


def firewall_problems(host: Host) -> Iterator[tuple[str, str]]:
    """Yield other firewalls at work: two would each let through what the other forbids, or forbid it."""
    states = host.unit_states(["ufw", "firewalld", "nftables"], "ActiveState", "UnitFileState")
    for name in ("ufw", "firewalld"):
        if states.get(name, {}).get("ActiveState") == "active":
            yield f"firewall {name}", f"is at work; disable it: systemctl disable --now {name}"
    enabled = states.get("nftables", {}).get("UnitFileState") == "enabled"
    if enabled and host.read(nftables.DROP_IN) is None and has_own_rules(host):
        yield (
            "/etc/nftables.conf",
            "has rules of its own, which would not be loaded any more; move them to "
            "memoryark_firewall_openings, then: systemctl disable nftables",
        )


def has_own_rules(host: Host) -> bool:
    """Whether Debian's file of rules is not the one that the package has brought."""
    text = host.read("/etc/nftables.conf")
    if text is None:
        return False
    shown = host.run(["dpkg-query", "--show", "--showformat=${Conffiles}", "nftables"])
    known = dict(line.split()[:2] for line in shown.splitlines() if line.strip())
    # The hash is dpkg's choice.
    return known.get("/etc/nftables.conf") != md5(text.encode(), usedforsecurity=False).hexdigest()


def name_problems(names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the host names that do not resolve."""
    for name in names:
        try:
            socket.getaddrinfo(name, 443)
        except OSError as error:
            yield f"name {name}", f"does not resolve ({error.strerror or error}); add its DNS record"


def zone_problem(host: Host, zone: str) -> str:
    """Return what is wrong with a time zone: that the host, if it has any yet, has no such."""
    if not zone or not host.list(ZONES) or host.path(f"{ZONES}/{zone}").is_file():
        return ""
    return (
        f"there is no time zone '{zone}' on the host; `timedatectl list-timezones` shows those that there are"
    )


def nearest(path: Path) -> Path:
    """Return ``path``, or the nearest directory above that is there."""
    return path if path.exists() else nearest(path.parent)


def disk_problems(host: Host, root: str, needed: int) -> Iterator[tuple[str, str]]:
    """Yield the file systems with less than ``needed`` bytes free: that of the data, and that of the images.

    Where the data is there has to be room for two more of each database as well: a copy, and one that comes
    back beside what a migration has made.
    """
    store = Store(host, root)
    databases = {path for unit in store.known(store.current()).units for path in unit.databases}
    copies = sum(2 * host.path(path).stat().st_size for path in databases if host.path(path).exists())
    seen = set()
    for name, wanted in ((root, needed + copies), (CONTAINERS, needed)):
        path = nearest(host.path(name))
        if path.stat().st_dev not in seen:
            yield f"disk under {name}", room_problem("disk free", shutil.disk_usage(path).free, wanted)
        seen.add(path.stat().st_dev)


def resolve_tags(host: Host, params: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the digests of references with a tag, and what is wrong with those that have none, by setting.

    A tag that a release has recorded stands for the same digest until somebody wants it resolved anew.
    """
    tags = {} if params["update_tags"] else recorded_tags(host)
    digests, problems = {}, {}
    for setting, reference in params["images"].items():
        if "@" not in reference:
            try:
                digests[reference] = tags.get(reference) or resolve_tag(
                    reference, params["insecure_registries"]
                )
            except RegistryError as error:
                problems[setting] = str(error)
    return digests, problems


def image_problems(host: Host, params: dict[str, Any], tags: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the images that neither the host nor their registry has."""
    there = host.images()
    for setting, reference in sorted(params["images"].items()):
        pinned = f"{reference}@{tags[reference]}" if reference in tags else reference
        if "@" in pinned and by_digest(pinned) not in there:
            yield setting, check_image(pinned, params["insecure_registries"])


def look(
    host: Host, params: dict[str, Any], packages: Mapping[str, str]
) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the digests of tags, and every problem as the place and what is wrong there."""
    tags, unresolved = resolve_tags(host, params)
    found = [*problems(host, params, packages), *unresolved.items(), *image_problems(host, params, tags)]
    return tags, [{"where": where, "what": what} for where, what in found if what]


def problems(host: Host, params: dict[str, Any], packages: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what is to be known of the host itself; a text without content is no problem."""
    yield "operating system", os_problem(host.read("/etc/os-release") or "")
    yield "package podman", podman_problem(podman_policy(host, packages))
    memory = memory_bytes(host.read("/proc/meminfo") or "")
    yield "memory", room_problem("memory", memory, params["memory_needed"] + MEMORY_FOR_THE_HOST)
    yield from disk_problems(host, params["root"], params["disk_needed"])
    yield "inventory memoryark_timezone", zone_problem(host, params["timezone"])
    yield from port_problems(host, params["ports"])
    yield from firewall_problems(host)
    yield from name_problems(params["names"])


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "ports": {"type": "list", "elements": "int", "default": []},
            "names": {"type": "list", "elements": "str", "default": []},
            "images": {"type": "dict", "default": {}},
            "update_tags": {"type": "bool", "default": False},
            "insecure_registries": {"type": "list", "elements": "str", "default": []},
            "paths": {"type": "list", "elements": "path", "default": []},
            "memory_needed": {"type": "int", "default": 0},
            "disk_needed": {"type": "int", "default": 0},
            "timezone": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    host = Host(module.run_command)
    try:
        packages = installed_packages(host)
        tags, found = look(host, module.params, packages)
        version = Store(host, module.params["root"]).version()
    except HostError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        time=time.time(),
        version=version,
        tags=tags,
        packages={
            name: [{"name": name, "version": version, "source": "apt"}] for name, version in packages.items()
        },
        absent=[path for path in module.params["paths"] if not host.path(path).exists()],
        problems=found,
    )


if __name__ == "__main__":
    main()
