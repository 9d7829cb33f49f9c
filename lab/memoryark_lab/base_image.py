"""The disk image that all hosts share: a fresh Debian 13 server with nothing of this project on it.

It is built once a month from Debian's own archives and kept in the cache under the hash of its
recipe. Neither keys nor names are in it; a host gets those at boot (see ``guest``).
"""

from __future__ import annotations

import datetime
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memoryark_lab import debian, files
from memoryark_lab.errors import LabError
from memoryark_lab.paths import CACHE, REPO
from memoryark_lab.progress import Progress

SIZE_GB = 12
"""Virtual size of the image in GiB; a host's disk is at least that large."""

STEPS = 3
"""How many progress steps a build announces."""

_APT_OPTIONS = ('Acquire::Languages "none"', 'Acquire::Retries "3"')
_DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
)

# Before the kernel is configured: an initial RAM disk with nothing but the way to the disk boots
# faster than one for every machine there is.
_BEFORE = {
    "/etc/initramfs-tools/conf.d/lab": "MODULES=list\n",
    "/etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
}

_AFTER = {
    "/etc/fstab": "/dev/vda / ext4 defaults,errors=remount-ro 0 1\n",
    # Empty, not missing: the host makes its own at boot, yet is not taken for unconfigured.
    "/etc/machine-id": "",
    "/etc/default/locale": "LANG=C.UTF-8\n",
}

# Debian enables neither of the first two by itself; without them no network comes up. The timers
# would take the processor of a slow host at times of their own choosing.
_AFTER_COMMANDS = (
    'chroot "$1" systemctl --quiet enable systemd-networkd systemd-network-generator',
    'chroot "$1" systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer',
    'chroot "$1" systemctl --quiet disable e2scrub_all.timer e2scrub_reap.service',
    'rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/hostname" "$1/etc/hosts" "$1/etc/resolv.conf"',
)


@dataclass(frozen=True)
class BaseImage:
    """The three files a host boots from."""

    disk: Path
    kernel: Path
    initrd: Path

    def complete(self) -> bool:
        """Whether all of them are there."""
        return all(path.is_file() for path in (self.disk, self.kernel, self.initrd))


def package_list(text: str) -> list[list[str]]:
    """The lines of a package list as lists of package names, without comments and empty lines."""
    return [words for line in text.splitlines() if (words := line.partition("#")[0].split())]


def write_hook(content: Mapping[str, str]) -> str:
    """A shell command that writes these files below ``$1``."""
    return "; ".join(
        f'mkdir -p "$1"{shlex.quote(str(Path(name).parent))}'
        f' && printf %s {shlex.quote(text)} > "$1"{shlex.quote(name)}'
        for name, text in content.items()
    )


def download_hook(sets: list[list[str]]) -> list[str]:
    """Shell commands that fill the package cache below ``$1`` with archives, each set for itself."""
    # Each set alone, since two of them may exclude one another (the time services do).
    fetch = 'chroot "$1" apt-get -qq install --yes --download-only'
    return [
        'chroot "$1" apt-get clean',
        *(
            f"{fetch} {option} {shlex.join(names)}"
            for names in sets
            for option in ("--install-recommends", "--no-install-recommends")
        ),
    ]


def mmdebstrap_argv(installed: list[list[str]], preseeded: list[list[str]], tar: Path) -> list[str]:
    """The command that makes the root file system as an archive."""
    names = ",".join(name for line in installed for name in line)
    after = [*_AFTER_COMMANDS, write_hook(_AFTER)]
    return [
        "mmdebstrap",
        "--mode=auto",
        "--variant=minbase",
        "--format=tar",
        "--skip=cleanup/apt,cleanup/reproducible",
        *(f"--aptopt={option}" for option in _APT_OPTIONS),
        *(f"--dpkgopt={option}" for option in _DPKG_OPTIONS),
        f"--include={names}",
        f"--essential-hook={write_hook(_BEFORE)}",
        *(f"--customize-hook={command}" for command in [*download_hook(preseeded), *after]),
        debian.SUITE,
        str(tar),
        *debian.sources(),
    ]


_UNPACK = """\
set -eu
mkdir root
tar --extract --file=root.tar --directory=root --exclude='./dev/*' \\
  --xattrs --xattrs-include='*' --numeric-owner
cp "$(ls root/boot/vmlinuz-*)" kernel
cp "$(ls root/boot/initrd.img-*)" initrd
truncate --size={size}G disk.raw
mkfs.ext4 -q -L root -d root disk.raw
rm -rf root root.tar
"""


def unpack_argv(root: bool) -> list[str]:
    """The command that makes kernel, initrd and ``disk.raw`` of ``root.tar`` in the present directory."""
    shell = ["sh", "-c", _UNPACK.format(size=SIZE_GB)]
    # An ordinary user needs the whole range of user ids to give files to their owners.
    return shell if root else ["unshare", "--user", "--map-root-user", "--map-auto", "--", *shell]


def recipe_hash(installed: str, preseeded: str, month: str) -> str:
    """The name of the image that these package lists and this code make in this month."""
    recipe = (
        mmdebstrap_argv(package_list(installed), package_list(preseeded), Path("root.tar")),
        unpack_argv(True),
        month,
    )
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]


def _lists() -> tuple[str, str]:
    return (
        (REPO / "lab" / "installed-packages.txt").read_text(),
        (REPO / "lab" / "preseeded-packages.txt").read_text(),
    )


def present() -> BaseImage:
    """Where this month's image is or will be."""
    month = datetime.datetime.now(datetime.UTC).strftime("%Y-%m")
    directory = CACHE / "base" / recipe_hash(*_lists(), month)
    return BaseImage(directory / "disk.qcow2", directory / "kernel", directory / "initrd")


def ensure(progress: Progress) -> BaseImage:
    """This month's image, built when it is not in the cache (announces ``STEPS`` steps then).

    Raises LabError with the end of the build's log when the build fails.
    """
    image = present()
    if image.complete():
        return image
    with files.locked(CACHE / "base.lock", "the base image"):
        if not image.complete():
            _build(image, progress)
    return image


def _build(image: BaseImage, progress: Progress) -> None:
    directory = image.disk.parent
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".building-") as name:
        work = Path(name)
        # mmdebstrap's user namespace and ours must get at it.
        work.chmod(0o755)
        installed, preseeded = (package_list(text) for text in _lists())
        with progress.step("base image: packages from Debian", "about 2 min, once a month"):
            argv = mmdebstrap_argv(installed, preseeded, Path("root.tar"))
            _run(argv, work, within=debian.own_mounts())
        with progress.step("base image: file system", "about 20 s"):
            _run(unpack_argv(os.geteuid() == 0), work)
        with progress.step("base image: disk", "about 10 s"):
            _run(["qemu-img", "convert", "-O", "qcow2", "disk.raw", "disk.qcow2"], work)
            (work / "disk.raw").unlink()
        shutil.rmtree(directory, ignore_errors=True)
        (work / "log").replace(directory.parent / f"{directory.name}.log")
        _publish(work, directory)


def _publish(work: Path, directory: Path) -> None:
    """Give the image its name in one step, so that nobody sees half of it."""
    finished = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".finished-"))
    for name in ("disk.qcow2", "kernel", "initrd"):
        (work / name).replace(finished / name)
    finished.rename(directory)


def _run(argv: list[str], work: Path, *, within: Sequence[str] = ()) -> None:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    if shutil.which(argv[0], path=path) is None:
        raise LabError(f"{argv[0]} is missing here: run lab/install-debian-packages")
    # apt runs as another user in there and may not read what only this user may.
    environment = {**os.environ, "PATH": path, "TMPDIR": str(work)}
    with (work / "log").open("ab") as log:
        code = subprocess.run(
            [*within, *argv],
            cwd=work,
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            check=False,
        ).returncode
    if code != 0:
        tail = (work / "log").read_text(errors="replace").splitlines()[-15:]
        raise LabError(
            f"the base image cannot be built: {argv[0]} failed; are Debian's archives reachable?\n"
            + "\n".join(f"  {line}" for line in tail)
        )
