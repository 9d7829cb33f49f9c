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


def test_other_users_of_the_host_see_nothing(host: Host) -> None:
    assert host.run("setpriv --reuid=65534 --regid=65534 --clear-groups ls /srv/test").failed


def test_the_volume_is_there(host: Host) -> None:
    assert host.run("podman volume exists test-queue").succeeded
