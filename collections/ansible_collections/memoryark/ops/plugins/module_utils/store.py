# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The releases that a host keeps, and which of them it boots.

Each release is a numbered directory. What the host boots is one symbolic link to one of them, so that a
change of release is one rename: whenever the power goes, the host has the one or the other, whole.
The directory is below /etc because systemd's generators run before other file systems are there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils import databases, networks, nftables
from ansible_collections.memoryark.ops.plugins.module_utils.databases import CURRENT
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.release import Release

RELEASES = "/etc/memoryark/releases"
# Where systemd finds the units of a release that is being tried, and no boot does.
TRIAL = "/run/systemd/system"
TARGET = "memoryark.target"
# Services that work at boot and run no container.
AT_BOOT = (databases.UNIT, networks.UNIT)
# The name of the service and the timer that renew the certificate.
CERTIFICATES = "memoryark-certificates"
# All units of our own that run no container: no service may have such a name.
OWN_UNITS = (*AT_BOOT, *nftables.UNITS, f"{CERTIFICATES}.service")
KEPT = 5
# Copies of databases from before so many migrations stay, however old they are.
MIGRATIONS = 2
# The files under containers that read theirs anew, and whom to tell of them. Both are gone after a boot.
LIVE = "/run/memoryark/config"
PENDING = "/run/memoryark/pending"
# Written as the last file of a release: a directory without it is not one.
MANIFEST = "release.json"
PRESENT_MANIFEST = f"{CURRENT}/{MANIFEST}"
# In releases that were healthy once; says where they come from.
PROVEN = "proven.json"

_SET = re.compile(r"[0-9a-f]{16}")
_SYSTEMD = "/etc/systemd/system"
_QUADLET = "/etc/containers/systemd/memoryark"


class Store:
    """Keeps releases on ``host``; ``root`` is the directory of data and configuration."""

    def __init__(self, host: Host, root: str) -> None:
        self._host = host
        self._root = root
        self._configs = f"{root}/config"
        self._backups = f"{root}/backups/releases"

    def current(self) -> int | None:
        """Return the number of the release that the host boots, None before the first."""
        link = self._host.read_link(CURRENT)
        return int(PurePosixPath(link).name) if link else None

    def load(self, number: int | None) -> Release:
        """Return a kept release, an empty one for None; raises HostError if it is damaged."""
        if number is None:
            return Release()
        path = f"{RELEASES}/{number}/{MANIFEST}"
        try:
            text = self._host.read(path)
            if text is None:
                raise ValueError("it is missing")
            return Release.from_json(text)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise HostError(
                f"{path} is damaged ({error}). Run site.yml: it makes all of the release anew"
            ) from error

    def known(self, number: int | None) -> Release:
        """Return a kept release, an empty one for None or if it is damaged: nothing is known of it then."""
        with suppress(HostError):
            return self.load(number)
        return Release()

    def damage(self) -> list[str]:
        """Return what ``load`` says of the present release if it is damaged."""
        try:
            self.load(self.current())
        except HostError as error:
            return [str(error)]
        return []

    def releases(self) -> dict[int, Release]:
        """Return all releases by number, also those that failed, without those that are damaged."""
        found = {}
        for number in self.numbers():
            with suppress(HostError):
                found[number] = self.load(number)
        return found

    def numbers(self) -> list[int]:
        """Return the numbers of all releases that are there, also of those that failed."""
        return sorted(int(name) for name in self._host.list(RELEASES) if name.isdigit())

    def proven(self) -> list[int]:
        """Return the numbers of the releases that were healthy once and are not damaged, oldest first."""
        return [number for number in self.releases() if self.origin(number)]

    def directory(self, number: int) -> str:
        """Return where the Quadlet units of a release are."""
        return f"{RELEASES}/{number}/quadlet"

    def files(self, number: int, release: Release) -> dict[str, dict[str, str]]:
        """Return texts by path, grouped by the unit or the set of configuration that they belong to."""
        own: dict[str, dict[str, str]] = {}
        for unit in release.units:
            own[unit.name] = {f"{self.directory(number)}/{unit.name}.container": unit.text}
        for name, text in release.systemd.items():
            own[name] = {f"{RELEASES}/{number}/systemd/{name}": text}
        if release.openings:
            text = nftables.elements(release.openings)
            own[nftables.FILE] = {f"{RELEASES}/{number}/{nftables.FILE}": text}
        for name, files in release.configs.items():
            own[name] = {f"{self._configs}/{name}/{path}": text for path, text in files.items()}
        return own

    def live(self, release: Release) -> dict[str, dict[str, str]]:
        """Return the files that services which read theirs anew have under them, by service and path."""
        return {
            unit.service: self._host.tree(f"{LIVE}/{unit.service}") for unit in release.units if unit.live
        }

    def pending(self) -> frozenset[str]:
        """Return the services that were not told yet of the files under them."""
        return frozenset(self._host.list(PENDING))

    def put_live(self, release: Release, name: str) -> None:
        """Put the release's files under the container of unit ``name``, which is to be told of them next."""
        unit = next(unit for unit in release.units if unit.name == name)
        if not unit.live:
            return
        self._host.write(f"{PENDING}/{unit.service}", "")
        files = release.configs[unit.configs]
        for path, text in files.items():
            self._host.write(f"{LIVE}/{unit.service}/{path}", text)
        for path in set(self._host.tree(f"{LIVE}/{unit.service}")) - set(files):
            self._host.delete(f"{LIVE}/{unit.service}/{path}")

    def told(self, release: Release, names: Iterable[str]) -> None:
        """Note that the containers of these units know of the files under them."""
        for unit in release.units:
            if unit.live and unit.name in set(names):
                self._host.delete(f"{PENDING}/{unit.service}")

    def damaged(self, number: int | None, release: Release) -> frozenset[str]:
        """Return the names of units and sets of configuration that are not as they were written."""
        if number is None:
            return frozenset()
        return frozenset(
            name
            for name, texts in self.files(number, release).items()
            if any(self._host.read(path) != text for path, text in texts.items())
        )

    def stage(self, release: Release) -> int:
        """Write a release beside the others, where nothing reads it yet; return its number."""
        number = self.current()
        if number is None or self.known(number) != release:
            number = self._fresh()
        self.put(number, release)
        self._host.write(f"{RELEASES}/{number}/{MANIFEST}", release.to_json())
        return number

    def put(self, number: int, release: Release) -> None:
        """Write those files of a release that are not there as they should be."""
        for texts in self.files(number, release).values():
            for path, text in texts.items():
                if self._host.read(path) != text:
                    self._host.write(path, text)

    def _fresh(self) -> int:
        """Return a number above those of all releases and copies."""
        return max([0, *self.numbers(), *self._saved()]) + 1

    def origin(self, number: int) -> dict[str, Any]:
        """Return who made a release of what, and when; empty for one that was never proven."""
        found: dict[str, Any] = {}
        with suppress(ValueError):
            found = json.loads(self._host.read(f"{RELEASES}/{number}/{PROVEN}") or "{}")
        return found

    def before(self, number: int | None) -> int | None:
        """Return the release that ran when a proven one was made, None if there is none that is whole.

        That is not always the one with the next lower number, which may have been the reason to go back.
        """
        if number is None:
            return None
        proven = self.proven()
        noted = self.origin(number).get("before")
        earlier = [other for other in proven if other < number]
        return noted if noted in proven and noted != number else next(reversed(earlier), None)

    def commit(self, number: int, release: Release, origin: Mapping[str, Any]) -> None:
        """Make it the release that the host boots."""
        if not self.origin(number):
            noted = {**origin, "before": self.current()}
            self._host.write(f"{RELEASES}/{number}/{PROVEN}", json.dumps(noted, sort_keys=True) + "\n")
        self._host.link(CURRENT, f"releases/{number}")
        for name, target in links(release).items():
            self._host.link(name, target)

    @property
    def version_file(self) -> str:
        """Where the version of the project is noted that the data was last deployed with.

        It is beside the data, because that is what it tells something about: data that was kept when the
        project was removed from the host, or that was brought from another, has it as well.
        """
        return f"{self._root}/version"

    def version(self) -> int | None:
        """Return the version of the project that the host was last deployed with, None before the first.

        Raises HostError if the note cannot be understood.
        """
        text = self._host.read(self.version_file)
        if text is None:
            # Whoever deployed without a note did so before there were versions.
            return None if self.current() is None else 0
        if not text.strip().isdecimal():
            raise HostError(
                f"{self.version_file} has to hold a number, the version of the project's last run"
            )
        return int(text)

    def backups(self, number: int) -> str:
        """Return where copies of databases go before ``number`` becomes the present release.

        One that was proven before keeps the copies from before its own first start.
        """
        return f"{self._backups}/{self._fresh() if self.origin(number) else number}"

    def backup(self, folder: str, path: str) -> str:
        """Return where in ``folder`` the copy of the file ``path`` below the root is."""
        return f"{folder}/{PurePosixPath(path).relative_to(self._root)}"

    def _saved(self) -> list[int]:
        """Return the numbers of releases that have copies; those of an earlier installation count as well."""
        return sorted(int(name) for name in self._host.list(self._backups) if name.isdigit())

    def _spare_copies(self, kept: Iterable[int]) -> set[int]:
        """Return the releases whose copies go: not kept, named by no trial, before no late migration."""
        folders = {self._host.path(f"{self._backups}/{number}"): number for number in self._saved()}
        noted = databases.journal(self._host.path(databases.TRIAL)).copies.values()
        named = {folder for folder in folders if any(Path(path).is_relative_to(folder) for path in noted)}
        spare = {number for folder, number in folders.items() if folder not in named} - set(kept)
        if spare:
            late = databases.before_migrations(list(folders), self._host.path(self._root))[-MIGRATIONS:]
            spare -= {folders[folder] for folder in late}
        return spare

    def check_links(self, release: Release) -> None:
        """Raise HostError if something is in the way of the links that lead a boot to a release."""
        for name in (CURRENT, *links(release)):
            path = self._host.path(name)
            if path.is_dir() and not path.is_symlink():
                raise HostError(f"{name} is a directory and has to be a link of this project; move it away")

    def wrong_links(self, release: Release) -> frozenset[str]:
        """Return those of the links that lead a boot to the release which are not there as they should be."""
        wanted = links(release) if release.units else {}
        return frozenset(name for name, target in wanted.items() if self._host.read_link(name) != target)

    def kept(self) -> list[int]:
        """Return the numbers of the present release, the one before it, and the last proven ones."""
        current = self.current()
        always = (current, self.before(current))
        return sorted({*self.proven()[-KEPT:], *(number for number in always if number is not None)})

    def prune(self) -> None:
        """Delete all other releases, and configuration and copies of databases that none of those needs."""
        kept = self.kept()
        for number in self._spare_copies(kept):
            self._host.delete_tree(f"{self._backups}/{number}")
        for number in set(self.numbers()) - set(kept):
            self._host.delete_tree(f"{RELEASES}/{number}")
        releases = [self.load(number) for number in kept]
        sets = {name for release in releases for name in release.configs}
        for service in self._host.list(self._configs):
            for content in self._host.list(f"{self._configs}/{service}"):
                if _SET.fullmatch(content) and f"{service}/{content}" not in sets:
                    self._host.delete_tree(f"{self._configs}/{service}/{content}")


def links(release: Release) -> dict[str, str]:
    """Return the links by which Quadlet and systemd find the present release: targets by path.

    They stay from release to release, since they lead through one link that changes.
    """
    return {
        _QUADLET: f"{CURRENT}/quadlet",
        **{f"{_SYSTEMD}/{name}": f"{CURRENT}/systemd/{name}" for name in release.systemd},
        f"{_SYSTEMD}/multi-user.target.wants/{TARGET}": f"{_SYSTEMD}/{TARGET}",
    }
