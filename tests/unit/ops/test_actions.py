"""What goes from the control node to the host, and what does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ansible_collections.memoryark.ops.plugins.action.release import ActionModule


class Sender(ActionModule):
    """An action with a host that has the images in ``present`` and remembers what it was sent."""

    def __init__(self, *present: str) -> None:
        self.present = present
        self.sent: list[tuple[str, str]] = []
        shell = SimpleNamespace(tmpdir=None, join_path=lambda *parts: "/".join(parts))
        self._connection = SimpleNamespace(_shell=shell)

    def _make_tmp_path(self, *_: Any) -> str:
        assert self._connection._shell.tmpdir is None
        self._connection._shell.tmpdir = "/tmp/ansible"
        return "/tmp/ansible"

    def _low_level_execute_command(self, cmd: str, *_: Any, **__: Any) -> dict[str, Any]:
        command, reference = cmd.rsplit(" ", 1)
        assert command == "podman image exists"
        return {"rc": 0 if reference in self.present else 1}

    def _transfer_file(self, local_path: str, remote_path: str) -> str:
        self.sent.append((local_path, remote_path))
        return remote_path


def test_only_archives_whose_image_the_host_lacks_are_sent() -> None:
    sender = Sender("localhost/memoryark/b@sha256:1")
    archives = {f"localhost/memoryark/{name}@sha256:1": f"/images/{name}.tar" for name in "abc"}
    assert sender._send(archives) == {
        "localhost/memoryark/a@sha256:1": "/tmp/ansible/image-0.tar",
        "localhost/memoryark/c@sha256:1": "/tmp/ansible/image-1.tar",
    }
    assert [local for local, _remote in sender.sent] == ["/images/a.tar", "/images/c.tar"]


def test_without_archives_the_host_is_not_asked() -> None:
    assert Sender()._send({}) == {}
