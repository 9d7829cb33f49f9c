"""The image builder and the loopback registry, without podman; the registry for real where it is."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from memoryark_lab import images, registry
from memoryark_lab.errors import LabError
from memoryark_lab.progress import Progress

needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="needs Debian's package docker-registry"
)

# Records its arguments and does what the builder relies on, without building anything.
FAKE_PODMAN = """#!{python}
import hashlib, json, os, pathlib, sys, urllib.request
here = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
store = here / "store"
store.mkdir(exist_ok=True)
name = lambda tag: store / hashlib.sha256(tag.encode()).hexdigest()
if "exists" in arguments:
    sys.exit(0 if name(arguments[-1]).exists() else 1)
if "import" in arguments:
    name(arguments[-1]).touch()
if "build" in arguments:
    if (here / "broken").exists():
        print("STEP 2/3: RUN apt-get install nonsense")
        print("E: Unable to locate package nonsense")
        sys.exit(100)
    name(arguments[arguments.index("--tag") + 1]).touch()
if "push" in arguments:
    target = arguments[-1].removeprefix("docker://")
    host, _, path = target.partition("/")
    repository, _, tag = path.rpartition(":")
    def send(method, url, body=b"", kind="application/octet-stream"):
        request = urllib.request.Request(url, body, {{"Content-Type": kind}}, method=method)
        return urllib.request.urlopen(request)
    blob = b"layer"
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    begun = send("POST", f"http://{{host}}/v2/{{repository}}/blobs/uploads/").headers["Location"]
    send("PUT", begun + ("&" if "?" in begun else "?") + "digest=" + digest, blob)
    part = {{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(blob)}}
    layer = {{**part, "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd"}}
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {{"schemaVersion": 2, "mediaType": kind, "config": part, "layers": [layer, layer]}}
    send("PUT", f"http://{{host}}/v2/{{repository}}/manifests/{{tag}}", json.dumps(manifest).encode(), kind)
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    (directory / "app").mkdir(parents=True)
    (directory / "Containerfile").write_text("FROM x\n")
    (directory / "app" / "main.py").write_text("pass\n")
    return directory


def test_the_hash_of_a_context_changes_with_whatever_goes_into_the_image(context: Path) -> None:
    seen = {images.context_hash(context, "base")}

    def is_new(*ingredients: str) -> bool:
        before = len(seen)
        seen.add(images.context_hash(context, *ingredients))
        return len(seen) > before

    assert not is_new("base")
    assert is_new("another base")
    (context / "app" / "main.py").write_text("1\n")
    assert is_new("base")
    (context / "app" / "main.py").chmod(0o755)
    assert is_new("base")
    (context / "app" / "main.py").rename(context / "app" / "other.py")
    assert is_new("base")
    (context / "Containerfile").write_text("FROM y\n")
    assert is_new("base")


def test_the_hash_of_a_context_ignores_what_python_leaves_behind(context: Path) -> None:
    before = images.context_hash(context)
    (context / "app" / "__pycache__").mkdir()
    (context / "app" / "__pycache__" / "main.pyc").write_bytes(b"x")
    os.utime(context / "Containerfile", (0, 0))
    assert images.context_hash(context) == before


def test_a_new_month_renews_every_image() -> None:
    november, december = images.image_keys("2026-11"), images.image_keys("2026-12")
    assert november == images.image_keys("2026-11")
    assert set(november) == {*images.IMAGES, "memoryark-base", "memoryark-debian"}
    assert all(november[name] != december[name] for name in november)


@pytest.mark.parametrize("name", images.IMAGES)
def test_every_image_keeps_the_rules(name: str) -> None:
    context = images.IMAGES[name]
    lines = (context / "Containerfile").read_text().splitlines()
    instructions = [line.split() for line in lines if line[:1].isupper()]
    assert ["ARG", "BASE=memoryark-base"] in instructions
    assert ["FROM", "${BASE}"] in instructions
    users = [words[1] for words in instructions if words[0] == "USER"]
    assert len(users) == 1
    assert all(part.isdigit() for part in users[0].split(":")), "USER must be numeric"
    assert any(words[0] == "EXPOSE" for words in instructions)
    # Anonymous volumes would survive the container that made them.
    assert not any(words[0] in {"VOLUME", "ADD"} for words in instructions)
    for line in lines:
        if "apt-get install" in line:
            assert "--no-install-recommends" in line
    assert "__pycache__" in (context / ".containerignore").read_text()


class TestHttpCheck:
    """The health check of the images without an HTTP client."""

    @pytest.fixture
    def server(self) -> Iterator[tuple[socket.socket, int]]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            yield listening, listening.getsockname()[1]

    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            (b"HTTP/1.1 200 OK\r\n\r\n", 0),
            (b"HTTP/1.1 204 No Content\r\n\r\n", 0),
            (b"HTTP/1.1 302 Found\r\n\r\n", 1),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", 1),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 1),
            (b"", 1),
        ],
    )
    def test_result(self, server: tuple[socket.socket, int], answer: bytes, code: int) -> None:
        listening, port = server
        check = subprocess.Popen(
            [images.BASE_CONTEXT / "http-check", str(port), "/healthz"], stdout=subprocess.DEVNULL
        )
        connection, _ = listening.accept()
        with connection:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connection.recv(4096)
            assert request.startswith(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n")
            connection.sendall(answer)
        assert check.wait(timeout=10) == code

    def test_nobody_listens(self, server: tuple[socket.socket, int]) -> None:
        listening, port = server
        listening.close()
        check = subprocess.run(
            [images.BASE_CONTEXT / "http-check", str(port), "/"], stderr=subprocess.DEVNULL, check=False
        )
        assert check.returncode == 1


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "state"
    yield directory
    registry.down(directory)


@needs_registry
class TestRegistry:
    """Debian's docker-registry, started and stopped for real."""

    def test_up_twice_and_down(self, state: Path, tmp_path: Path) -> None:
        assert registry.status(state) is None
        first = registry.up(state, tmp_path / "storage")
        assert registry.answers(first.port)
        assert registry.up(state, tmp_path / "storage") == first == registry.status(state)
        assert first.guest_address == f"10.0.2.2:{first.port}"
        assert registry.down(state)
        assert not registry.down(state)
        assert registry.status(state) is None
        again = registry.up(state, tmp_path / "storage")
        assert (again.port, again.pid) != (first.port, first.pid)
        assert again.port == first.port

    def test_a_pid_that_went_to_somebody_else_is_not_ours(self, state: Path, tmp_path: Path) -> None:
        ours = registry.up(state, tmp_path / "storage")
        registry.down(state)
        stale = {"port": ours.port, "pid": os.getpid(), "began": 1}
        (state / "registry.json").write_text(json.dumps(stale))
        assert registry.status(state) is None
        assert not registry.down(state)
        assert registry.up(state, tmp_path / "storage").pid != os.getpid()

    def test_a_port_that_somebody_took_is_given_up(self, state: Path, tmp_path: Path) -> None:
        first = registry.up(state, tmp_path / "storage")
        registry.down(state)
        with socket.create_server(("127.0.0.1", first.port)):
            assert registry.up(state, tmp_path / "storage").port != first.port

    def test_a_killed_one_is_replaced(self, state: Path, tmp_path: Path) -> None:
        first = registry.up(state, tmp_path / "storage")
        os.kill(first.pid, signal.SIGKILL)
        os.waitpid(first.pid, 0)
        second = registry.up(state, tmp_path / "storage")
        assert (second.port, registry.answers(second.port)) == (first.port, True)
        assert second.pid != first.pid

    def test_its_configuration_is_private(self, state: Path, tmp_path: Path) -> None:
        registry.up(state, tmp_path / "storage")
        assert stat.S_IMODE((state / "registry.yml").stat().st_mode) == 0o600


@needs_registry
class TestBuildAll:
    """The builder with a podman that only pretends, and a real registry."""

    @pytest.fixture
    def tools(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        tools = tmp_path / "bin"
        tools.mkdir()
        (tools / "podman").write_text(FAKE_PODMAN.format(python=sys.executable))
        # The target is the argument before the three sources.
        (tools / "mmdebstrap").write_text('#!/bin/bash\ntouch "${@: -4:1}"\n')
        for program in tools.iterdir():
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        return tools

    def calls(self, tools: Path, verb: str) -> int:
        lines = (tools / "calls").read_text().splitlines()
        return sum(verb in json.loads(line) for line in lines)

    def build(
        self, state: Path, *names: str, registry_name: str | None = None, force: bool = False
    ) -> dict[str, images.ImageRef]:
        self.out = io.StringIO()
        return images.build_all(
            Progress(1, out=self.out),
            names=names or None,
            registry_name=registry_name,
            force=force,
            state=state,
            cache=state.parent / "cache",
        )

    def test_everything_is_built_once(self, state: Path, tools: Path) -> None:
        refs = self.build(state)
        assert list(refs) == list(images.IMAGES)
        assert self.calls(tools, "build") == len(images.IMAGES) + 1
        assert self.calls(tools, "push") == len(images.IMAGES)
        assert self.build(state) == refs
        assert self.calls(tools, "push") == len(images.IMAGES)
        assert "1/6 redis: unchanged" in self.out.getvalue()
        written = json.loads((state / "images.json").read_text())
        server = registry.status(state)
        assert server is not None
        for name, ref in refs.items():
            assert written[name] == {"reference": ref.reference, "digest": ref.digest, "size": ref.size}
            assert ref.reference == f"10.0.2.2:{server.port}/memoryark/{name}@{ref.digest}"
            assert ref.size == 3 * len(b"layer")
            url = f"{server.url}/v2/memoryark/{name}/manifests/{ref.digest}"
            request = urllib.request.Request(
                url, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"}
            )
            with urllib.request.urlopen(request) as answer:
                assert "sha256:" + hashlib.sha256(answer.read()).hexdigest() == ref.digest

    def test_one_image_under_another_name_of_the_registry(self, state: Path, tools: Path) -> None:
        self.build(state, "prometheus")
        refs = self.build(state, "redis", registry_name="registry.example.org")
        assert refs["redis"].reference.startswith("registry.example.org/memoryark/redis@sha256:")
        # What was built before is still known.
        assert set(json.loads((state / "images.json").read_text())) == {"prometheus", "redis"}

    def test_a_forced_build_uses_no_old_layer(self, state: Path, tools: Path) -> None:
        self.build(state, "redis")
        self.build(state, "redis", force=True)
        assert self.calls(tools, "--no-cache") == 1

    def test_an_emptied_cache_is_filled_again(self, state: Path, tools: Path) -> None:
        self.build(state, "redis")
        shutil.rmtree(state.parent / "cache")
        shutil.rmtree(tools / "store")
        assert self.build(state, "redis")

    def test_a_failed_step_is_shown(self, state: Path, tools: Path) -> None:
        (tools / "broken").touch()
        with pytest.raises(LabError) as error:
            self.build(state, "redis")
        assert "STEP 2/3: RUN apt-get install nonsense" in str(error.value)
        assert "Unable to locate package" in str(error.value)
        assert not (state / "images.json").exists()

    def test_an_unknown_image(self, state: Path) -> None:
        with pytest.raises(LabError, match="no image nonsense; there are redis, "):
            self.build(state, "nonsense")
