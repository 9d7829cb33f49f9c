# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What on a host is this project's, and how it is taken away. Data stays unless its deletion is confirmed.

Everything is found anew on each run, and what tells of the rest goes last: a run after one that was
interrupted takes away what is still there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils import databases, images, networks, nftables
from ansible_collections.memoryark.ops.plugins.module_utils.host import OWNED_LABEL, Host, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.plan import by_digest
from ansible_collections.memoryark.ops.plugins.module_utils.release import (
    FINGERPRINT_LABEL,
    SECRET_PREFIX,
    Release,
)
from ansible_collections.memoryark.ops.plugins.module_utils.store import (
    CERTIFICATES,
    OWN_UNITS,
    TARGET,
    TRIAL,
    Store,
)
from ansible_collections.memoryark.ops.plugins.module_utils.transaction import (
    told_to_the_operator,
    trial_files,
    trial_units,
)
from ansible_collections.memoryark.ops.plugins.module_utils.units import as_services, stop_units

_SYSTEMD = "/etc/systemd/system"
# Where links lead a boot to a release.
BOOT = (_SYSTEMD, f"{_SYSTEMD}/multi-user.target.wants", "/etc/containers/systemd")
# What the roles write.
FILES = (
    "/etc/containers/containers.conf.d/memoryark.conf",
    "/etc/containers/registries.conf.d/memoryark.conf",
    "/etc/sysctl.d/60-memoryark-base.conf",
    "/etc/sysctl.d/60-memoryark.conf",
    "/etc/systemd/journald.conf.d/memoryark.conf",
    f"{_SYSTEMD}/{CERTIFICATES}.service",
    f"{_SYSTEMD}/{CERTIFICATES}.timer",
    f"{_SYSTEMD}/timers.target.wants/{CERTIFICATES}.timer",
    "/etc/systemd/timesyncd.conf.d/memoryark.conf",
    nftables.DROP_IN,
    *(f"{_SYSTEMD}/{unit}" for unit in nftables.UNITS),
    f"{_SYSTEMD}/sysinit.target.wants/{nftables.UNITS[0]}",
    f"{_SYSTEMD}/{nftables.TIMER}",
    f"{_SYSTEMD}/timers.target.wants/{nftables.TIMER}",
)
MASKS = (f"{_SYSTEMD}/podman-auto-update.service", f"{_SYSTEMD}/podman-auto-update.timer")
# Programs that read some of the files only when they start.
READERS = ("systemd-journald.service", "systemd-timesyncd.service")
# Directories with nothing in them but what is the project's; the releases, which tell of the rest, come last.
TREES = ("/run/memoryark", "/usr/lib/memoryark", "/var/lib/memoryark", "/etc/memoryark")
# Below the root: what the deployment makes, and what is data.
MADE = ("acme-challenge", "config", "tls")
DATA = ("backups", "data", "logs", "uploads", "version")


@dataclass(frozen=True)
class Found:
    """The host.

    ``releases`` are all that it keeps, ``trial`` names the files of one that did not come to its end and
    ``tried`` the units in them. ``containers`` are as ``podman ps`` shows them, networks and volumes by name
    with their labels, ``users`` the names of containers by volume, ``images`` the ids by reference. ``links``
    are targets by path in the directories that a boot reads, ``paths`` those of the project's files and
    directories that are there, ``entries`` the names in the root. ``configured`` tells that a release has its
    configuration in there, ``keep_root`` that the root cannot be deleted: it is not there, or it is a file
    system of its own.
    """

    releases: tuple[Release, ...] = ()
    trial: tuple[str, ...] = ()
    tried: frozenset[str] = frozenset()
    containers: tuple[Mapping[str, Any], ...] = ()
    networks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    volumes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()
    images: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    paths: frozenset[str] = frozenset()
    entries: frozenset[str] = frozenset()
    configured: bool = False
    keep_root: bool = True


@dataclass(frozen=True)
class Removal:
    """What goes, by kind, and what stays.

    Data that stays is ``kept`` (paths) and ``volumes_kept`` (names of Podman volumes). ``left`` is in the
    project's places and stays because it is, or may be, somebody else's; ``strangers`` say who must go first.
    """

    units: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    volumes_kept: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()

    def shown(self) -> dict[str, list[str]]:
        """Return what goes as a module returns it."""
        kinds = ("units", "links", "networks", "secrets", "images", "volumes", "files", "directories")
        return {kind: list(getattr(self, kind)) for kind in kinds}

    @property
    def empty(self) -> bool:
        """True when nothing of the project is left but what stays."""
        return not any(self.shown().values())


def refusals(host: str, confirm: str, delete_data: str, check: bool) -> list[str]:
    """Return why it may not begin: confirmations that are missing, or that name another host."""
    found = []
    if confirm not in ("", host):
        found.append(f"confirm is '{confirm}' and has to be '{host}', the host that is meant.")
    elif not confirm and not check:
        found.append(
            f"This takes the whole platform from {host}. See with --check --diff what would go, then confirm "
            f"with -e confirm={host}"
        )
    if delete_data not in ("", host):
        found.append(
            f"memoryark_delete_data is '{delete_data}' and has to be '{host}', the host whose data is to be "
            "deleted. Leave it out to keep the data."
        )
    return found


def decide(found: Found, root: str, delete_data: bool) -> Removal:
    """Tell the project's things from others."""
    foreign = [one for one in found.containers if not is_ours(one)]
    own_networks = owned_networks(found)
    own_volumes = owned_volumes(found)
    named = {by_digest(image) for release in found.releases for image in release.images} & set(found.images)
    named |= {image for image in found.images if images.is_foundation(image)}
    used = {image: users for image in named if (users := _names_of(foreign, found.images[image]))}
    made, data, others = below_root(found, root)
    gone = made | data if delete_data else made
    # What tells a later run that it is a root of ours goes last.
    inside = sorted(gone, key=lambda name: (name in {"config", "version"}, name))
    trees = [*(f"{root}/{name}" for name in inside), *(path for path in TREES if path in found.paths)]
    if gone == found.entries and not found.keep_root:
        trees.append(root)
    strangers = [
        f"containers that are not ours are on network {name}: {', '.join(users)}"
        for name in own_networks
        if (users := sorted(_name(one) for one in foreign if name in (one.get("Networks") or ())))
    ]
    strangers += [
        f"containers that are not ours use volume {name}: {', '.join(users)}"
        for name in own_volumes
        if delete_data and (users := sorted({*found.users.get(name, ())} & {_name(one) for one in foreign}))
    ]
    return Removal(
        units=tuple(sorted(_units(found))),
        links=tuple(
            sorted([path for path, target in found.links.items() if leads_to_a_release(target)])
            + [f"{TRIAL}/{name}" for name in found.trial]
        ),
        networks=own_networks,
        secrets=tuple(sorted(name for name in found.secrets if name.startswith(SECRET_PREFIX))),
        images=tuple(sorted(named - set(used))),
        volumes=own_volumes if delete_data else (),
        files=tuple(path for path in (*FILES, *MASKS) if path in found.paths),
        directories=tuple(trees),
        kept=() if delete_data else tuple(f"{root}/{name}" for name in sorted(data)),
        volumes_kept=() if delete_data else own_volumes,
        left=(
            *(f"{root}/{name}" for name in sorted(others)),
            *(f"image {image}, used by {', '.join(users)}" for image, users in sorted(used.items())),
        ),
        strangers=tuple(strangers),
    )


def below_root(found: Found, root: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Return the names in the root that the deployment makes, those of data, and those of others.

    A directory with no version in it, and in which no release has its configuration, is not a root of this
    project: the setting may be wrong. Nothing in it is touched.
    """
    mounted = {name for release in found.releases for name in directories(release, root)}
    if not (found.configured or "config" in mounted or "version" in found.entries):
        return frozenset(), frozenset(), found.entries
    made = found.entries & {*MADE}
    data = found.entries & {*DATA, *mounted} - made
    return made, data, found.entries - made - data


def is_ours(container: Mapping[str, Any]) -> bool:
    """Whether a container, as ``podman ps`` shows it, is of a release."""
    return FINGERPRINT_LABEL in (container["Labels"] or {})


def leads_to_a_release(target: str) -> bool:
    """Whether a link to ``target`` is one that leads a boot to the present release."""
    return target.startswith(f"{databases.CURRENT}/") or target == f"{_SYSTEMD}/{TARGET}"


def owned_networks(found: Found) -> tuple[str, ...]:
    """Return the names of the project's networks: those with its label, and those that a release names."""
    named = {name for release in found.releases for name in release.networks}
    return tuple(
        sorted(name for name, labels in found.networks.items() if OWNED_LABEL in labels or name in named)
    )


def owned_volumes(found: Found) -> tuple[str, ...]:
    """Return the names of the project's volumes: those with its label, and those that a release mounts."""
    named = {name for release in found.releases for name in _sources(release) if not name.startswith("/")}
    return tuple(
        sorted(name for name, labels in found.volumes.items() if OWNED_LABEL in labels or name in named)
    )


def directories(release: Release, root: str) -> set[str]:
    """Return the names of the directories in the root that a release's containers have mounted."""
    return {
        name.removeprefix(f"{root}/").partition("/")[0]
        for name in _sources(release)
        if name.startswith(f"{root}/")
    }


def _sources(release: Release) -> set[str]:
    """Return what the units of a release mount: names of volumes and paths on the host."""
    return {source for unit in release.units for source in re.findall(r"^Volume=([^:\n]+):", unit.text, re.M)}


def _units(found: Found) -> set[str]:
    """Return the names of all units that run or may run a container of the project."""
    running = {networks.unit_of(one).removesuffix(".service") for one in found.containers if is_ours(one)}
    return {name for release in found.releases for name in release.names} | found.tried | running - {""}


def _name(container: Mapping[str, Any]) -> str:
    return str(container["Names"][0])


def _names_of(containers: Iterable[Mapping[str, Any]], image: str) -> list[str]:
    return sorted(_name(one) for one in containers if one.get("ImageID") == image)


# --- effects


def observe(host: Host, root: str) -> Found:
    """Look at everything on the host that may be the project's."""
    releases = Store(host, root).releases().values()
    listed = host.podman_json("volume", "ls", "--format=json")
    top = host.path(root)
    return Found(
        releases=tuple(releases),
        trial=tuple(trial_files(host)),
        tried=trial_units(host),
        containers=tuple(host.podman_json("ps", "--all", "--format=json")),
        networks={
            entry["name"]: entry.get("labels") or {}
            for entry in host.podman_json("network", "ls", "--format=json")
        },
        volumes={entry["Name"]: entry.get("Labels") or {} for entry in listed},
        secrets=host.secrets(),
        images={
            name: image["Id"]
            for image in host.podman_json("image", "ls", "--format=json")
            for key in ("RepoDigests", "Names")
            for name in image.get(key) or ()
        },
        links={
            path: target
            for folder in BOOT
            for name in host.list(folder)
            if (target := host.read_link(path := f"{folder}/{name}"))
        },
        paths=frozenset(
            [path for path in (*FILES, *TREES) if os.path.lexists(host.path(path))]
            + [path for path in MASKS if host.read_link(path) == "/dev/null"]
        ),
        entries=frozenset(host.list(root)),
        configured=any(
            host.path(f"{root}/config/{name}").is_dir() for release in releases for name in release.configs
        ),
        keep_root=not top.is_dir() or top.is_symlink() or top.is_mount(),
    )


def users(host: Host, volumes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the names of the containers, by volume, that have one of the volumes."""
    return {
        name: tuple(
            _name(one) for one in host.podman_json("ps", "--all", "--format=json", f"--filter=volume={name}")
        )
        for name in volumes
    }


def survey(host: Host, root: str, delete_data: bool) -> Removal:
    """Return what goes and what stays."""
    found = observe(host, root)
    if delete_data:
        found = replace(found, users=users(host, owned_volumes(found)))
    return decide(found, root, delete_data)


def kept(host: Host, removal: Removal) -> list[dict[str, Any]]:
    """Return what data stays: its name, where it is and how many bytes it has."""
    places = {name: name for name in removal.kept}
    if removal.volumes_kept:
        inspected = host.podman_json("volume", "inspect", *removal.volumes_kept)
        places |= {f"volume {entry['Name']}": entry["Mountpoint"] for entry in inspected}
    return [{"name": name, "path": path, "bytes": size(host.path(path))} for name, path in places.items()]


def remove(host: Host, root: str, removal: Removal, delete_data: bool) -> None:
    """Take everything away that goes; raises HostError."""
    stop(host, removal)
    if not delete_data:
        # What a release that did not come to its end made of the databases does not stand.
        with told_to_the_operator("a database cannot be brought back"):
            databases.recover(host.path(databases.TRIAL), host.path(databases.CURRENT))
    for path in removal.links:
        host.delete(path)
    host.run(["systemctl", "daemon-reload"])
    if removal.units:
        # Failed units stay in systemd's lists, without a file. Those that did not fail make the command fail.
        host.try_run(["systemctl", "reset-failed", *as_services(removal.units), *OWN_UNITS])
    for name in removal.networks:
        networks.remove(host, name)
    if removal.secrets:
        host.run(["podman", "secret", "rm", *removal.secrets])
    if removal.images:
        # Podman refuses to remove one that another image is made from; then it stays.
        names = [images.stored_name(image) for image in removal.images]
        host.try_run(["podman", "image", "rm", "--ignore", *names])
    if removal.volumes:
        host.run(["podman", "volume", "rm", *removal.volumes])
    remove_firewall(host)
    for path in removal.files:
        host.delete(path)
    host.run(["systemctl", "daemon-reload"])
    host.try_run(["systemctl", "try-restart", *READERS])
    for path in removal.directories:
        if path == root:
            host.path(root).rmdir()
        else:
            delete(host, path)
    # A power cut right after it must not bring half of it back.
    os.sync()


def stop(host: Host, removal: Removal) -> None:
    """Stop all units, each before those that it needs, and remove what containers they left."""
    places = {*removal.links, *removal.files} - {*MASKS}
    own = sorted({Path(path).name for path in places if str(Path(path).parent) in (_SYSTEMD, TRIAL)})
    if own:
        # The target and, with it, its containers; the slice; timers. It fails if systemd does not know one.
        host.try_run(["systemctl", "stop", *own])
    stop_units(host, removal.units)
    if host.has_podman:
        host.run(["podman", "rm", "--force", f"--filter=label={FINGERPRINT_LABEL}"])


def remove_firewall(host: Host) -> None:
    """Remove the table of the firewall. Its files go after it: they tell a later run that there was one."""
    if nftables.live(host) is not None:
        nftables.load(host, nftables.GUARD.initial)


def delete(host: Host, path: str) -> None:
    """Delete a file, or a directory and all in it; raises HostError if it is still there."""
    if host.path(path).is_dir():
        host.delete_tree(path)
    else:
        host.delete(path)
    if os.path.lexists(host.path(path)):
        raise HostError(
            f"{path} cannot be deleted; is something mounted there? Unmount it, then run this again"
        )


def size(path: Path) -> int:
    """Return the bytes that the files at and below a path have."""
    files = (
        [path]
        if path.is_file()
        else (Path(top) / name for top, _folders, names in os.walk(path) for name in names)
    )
    return sum(file.lstat().st_size for file in files)
