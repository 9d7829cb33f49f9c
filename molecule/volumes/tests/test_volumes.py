"""Each directory belongs to whom it was given, and strangers see nothing."""

from __future__ import annotations

import pytest
from testinfra.host import Host


@pytest.mark.parametrize(
    ("path", "uid", "gid", "mode"),
    [
        ("/srv/test", 0, 0, 0o750),
        ("/srv/test/data", 0, 0, 0o750),
        ("/srv/test/logs", 0, 0, 0o755),
        ("/srv/test/logs/app", 1001, 1002, 0o700),
    ],
)
def test_directory(host: Host, path: str, uid: int, gid: int, mode: int) -> None:
    directory = host.file(path)
    assert directory.is_directory
    assert (directory.uid, directory.gid, directory.mode) == (uid, gid, mode)


def test_what_is_written_to_photos_is_on_the_disk_when_the_write_returns(host: Host) -> None:
    """The kernel's own count: nothing of a new file waits to be written."""
    write = "dd if=/dev/urandom of=/srv/test/photos/new bs=64k count=64 2>/dev/null"
    waiting = "awk '/^(Dirty|Writeback):/ {sum += $2} END {print sum}' /proc/meminfo"
    host.check_output("sync")
    host.check_output(f"mkdir -p /srv/test/photos/below && {write.replace('/new', '/below/new')}")
    assert int(host.check_output(waiting)) < 2048
    assert "S" in host.check_output("lsattr /srv/test/photos/below/new").split()[0]


def test_other_users_of_the_host_see_nothing(host: Host) -> None:
    assert host.run("setpriv --reuid=65534 --regid=65534 --clear-groups ls /srv/test").failed


def test_the_volume_is_there(host: Host) -> None:
    assert host.run("podman volume exists test-queue").succeeded
