"""The modules' own decisions, with a host that only remembers what it was told to do."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.module_utils import nftables, sockets
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.registry import check_image, manifest_url
from ansible_collections.memoryark.ops.plugins.module_utils.release import Release, Unit
from ansible_collections.memoryark.ops.plugins.module_utils.store import Store
from ansible_collections.memoryark.ops.plugins.modules import files, host_check, networks, volumes


class Recorder:
    """Answers commands from a table by their beginning and notes all of them."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}
        self.commands: list[str] = []

    def __call__(self, argv: list[str], **_options: Any) -> tuple[int, str, str]:
        command = " ".join(argv)
        self.commands.append(command)
        for beginning, answer in self.answers.items():
            if command.startswith(beginning):
                return 0, json.dumps(answer), ""
        return 0, "[]", ""


@pytest.fixture(autouse=True)
def _podman(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "has_podman", True)


NETWORK = {"name": "a-net", "interface": "a", "internal": False, "ipv6": False, "subnets": ["10.0.0.0/24"]}
INSPECTED = {
    "name": "a-net",
    "driver": "bridge",
    "network_interface": "a",
    "internal": False,
    "ipv6_enabled": False,
    "options": {"isolate": "strict"},
    "subnets": [{"subnet": "10.0.0.0/24", "gateway": "10.0.0.1"}],
}


def network_host(**changes: Any) -> Recorder:
    return Recorder(
        {
            "podman network ls": [{"name": "a-net"}],
            "podman network inspect": [{**INSPECTED, **changes}],
        }
    )


def test_a_network_as_declared_is_left_alone() -> None:
    recorder = network_host()
    assert networks.keep(Host(recorder), [NETWORK], check=False)["changed"] is False
    assert not [command for command in recorder.commands if " create" in command or " rm" in command]


@pytest.mark.parametrize(
    "change",
    [
        {"subnets": [{"subnet": "10.0.1.0/24"}]},
        {"options": {}},
        {"internal": True},
        {"ipv6_enabled": True},
        {"network_interface": "podman7"},
    ],
)
def test_a_network_that_differs_is_made_anew(change: dict[str, Any]) -> None:
    recorder = network_host(**change)
    result = networks.keep(Host(recorder), [NETWORK], check=False)
    assert result["recreated"] == ["a-net"]
    assert recorder.commands[-2:] == [
        "podman network rm a-net",
        "podman network create --interface-name=a --subnet=10.0.0.0/24 --opt=isolate=strict --label=io.memoryark.owned=true a-net",
    ]


@pytest.mark.parametrize("unit", ["memoryark-a.service", "grafana.service"])
def test_what_is_on_a_network_is_stopped_for_sure_before_it_is_made_anew(unit: str) -> None:
    """The start of another that needs it, as one that waits for its next start, must not cancel the stop."""
    recorder = network_host(internal=True)
    recorder.answers["podman ps"] = [{"Names": ["a"], "Labels": {"PODMAN_SYSTEMD_UNIT": unit}}]
    result = networks.keep(Host(recorder), [NETWORK], check=False)
    assert result["stopped"] == [unit]
    assert recorder.commands[-3] == f"systemctl --job-mode=replace-irreversibly stop {unit}"


def test_a_network_leases_addresses_from_a_part_of_the_subnet_that_it_belongs_to() -> None:
    wanted = {**NETWORK, "subnets": ["fd00:1::/64", "10.0.0.0/24"], "ip_range": "10.0.0.0/25"}
    recorder = network_host()
    assert networks.keep(Host(recorder), [wanted], check=False)["recreated"] == ["a-net"]
    (created,) = (command for command in recorder.commands if "network create" in command)
    assert "--subnet=10.0.0.0/24 --subnet=fd00:1::/64 --ip-range=10.0.0.0/25" in created
    lease = {"start_ip": "10.0.0.1", "end_ip": "10.0.0.127"}
    there = network_host(subnets=[{"subnet": "10.0.0.0/24", "lease_range": lease}, {"subnet": "fd00:1::/64"}])
    assert networks.keep(Host(there), [wanted], check=False)["changed"] is False


def test_check_mode_of_networks_only_looks() -> None:
    recorder = Recorder()
    result = networks.keep(Host(recorder), [{**NETWORK, "internal": True}], check=True)
    assert result["created"] == ["a-net"]
    assert recorder.commands == ["podman network ls --format=json"]


def test_a_foreign_container_on_a_network_is_not_touched() -> None:
    recorder = network_host(internal=True)
    recorder.answers["podman ps"] = [{"Names": ["stranger"], "Labels": {}}]
    with pytest.raises(HostError, match="stranger; remove them first"):
        networks.keep(Host(recorder), [NETWORK], check=False)
    assert not [command for command in recorder.commands if " rm" in command]


def test_directories_are_made_once(tmp_path: Path) -> None:
    host = Host(Recorder(), tmp_path)
    entry = {"path": "data", "owner": tmp_path.stat().st_uid, "group": tmp_path.stat().st_gid, "mode": "0710"}
    entry["synchronous"] = False
    params = {"root": "/srv/ark", "directories": [entry], "volumes": ["queue"]}
    host = Host(Recorder({"podman volume ls": [{"Name": "queue"}]}), tmp_path)
    assert volumes.keep(host, params, check=True)["directories"] == ["/srv/ark", "/srv/ark/data"]
    assert not (tmp_path / "srv").exists()
    assert volumes.keep(host, params, check=False)["changed"] is True
    assert (tmp_path / "srv/ark/data").stat().st_mode & 0o777 == 0o710
    assert volumes.keep(host, params, check=False)["changed"] is False


def test_a_directory_becomes_synchronous_with_all_below(tmp_path: Path) -> None:
    """Seen by the tool that everybody has for it."""
    (tmp_path / "srv/ark/uploads/files/aa").mkdir(parents=True)
    host = Host(Recorder(), tmp_path)
    entry = {"path": "uploads", "owner": os.getuid(), "group": os.getgid(), "mode": "0750"}
    for wanted in (True, False):
        params = {"root": "/srv/ark", "directories": [entry | {"synchronous": wanted}], "volumes": []}
        try:
            assert volumes.keep(host, params, check=False)["directories"][-1] == "/srv/ark/uploads"
        except HostError as error:
            assert "cannot keep writes synchronous" in str(error)
            return
        assert volumes.keep(host, params, check=False)["changed"] is False
        (tmp_path / "srv/ark/uploads/files/aa" / str(wanted)).mkdir()
        listed = subprocess.run(
            ["lsattr", "-dR", tmp_path / "srv/ark/uploads"], capture_output=True, text=True, check=True
        )
        flags = [line.split()[0] for line in listed.stdout.splitlines() if line]
        assert {"S" in flag for flag in flags} == {wanted}


def test_a_file_in_the_way_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv/ark").write_text("mine")
    with pytest.raises(HostError, match="is in the way"):
        volumes.keep(
            Host(Recorder(), tmp_path), {"root": "/srv/ark", "directories": [], "volumes": []}, check=False
        )
    assert (tmp_path / "srv/ark").read_text() == "mine"


def kept(path: str, **given: str) -> dict[str, Any]:
    """An entry as the module gets it."""
    return {"path": path, **dict.fromkeys(files.CONTENTS), "mode": "0644", **given}


def test_files_and_links_are_kept(tmp_path: Path) -> None:
    host = Host(Recorder(), tmp_path)
    wanted = [
        kept("/etc/a.conf", content="a\n", mode="0600"),
        kept("/etc/deep/link", link="/dev/null"),
    ]
    assert files.keep(host, wanted, check=True)["written"] == ["/etc/a.conf", "/etc/deep/link"]
    assert not (tmp_path / "etc").exists()
    assert files.keep(host, wanted, check=False)["changed"] is True
    assert (tmp_path / "etc/a.conf").stat().st_mode & 0o777 == 0o600
    assert str((tmp_path / "etc/deep/link").readlink()) == "/dev/null"
    assert files.keep(host, wanted, check=False)["changed"] is False
    (tmp_path / "etc/a.conf").write_text("other\n")
    (tmp_path / "etc/deep/link").unlink()
    (tmp_path / "etc/deep/link").write_text("a file now")
    assert files.keep(host, wanted, check=False)["written"] == ["/etc/a.conf", "/etc/deep/link"]
    assert files.keep(host, wanted, check=False)["changed"] is False


def test_a_file_that_is_no_text_is_kept(tmp_path: Path) -> None:
    host = Host(Recorder(), tmp_path)
    content = b"\0\xff\r\n"
    encoded = base64.b64encode(content).decode()
    wanted = [kept("/lib/program", base64=encoded, mode="0755")]
    shown = files.keep(host, wanted, check=False)["diff"][0]
    assert (shown["before"], shown["after"]) == ("", f"SHA-256 {hashlib.sha256(content).hexdigest()}\n")
    assert (tmp_path / "lib/program").read_bytes() == content
    assert files.keep(host, wanted, check=False)["changed"] is False


def test_a_secret_is_kept_and_never_shown(tmp_path: Path) -> None:
    host = Host(Recorder(), tmp_path)
    for text, before in (("first", ""), ("second", "a secret\n")):
        result = files.keep(host, [kept("/etc/key", secret_content=text, mode="0600")], check=False)
        assert (result["diff"][0]["before"], result["diff"][0]["after"]) == (before, "another secret\n")
        assert (tmp_path / "etc/key").read_text() == text
        assert text not in str(result)
    assert files.keep(host, [kept("/etc/key", secret_content="second", mode="0600")], check=True) == {
        "changed": False,
        "written": [],
        "diff": [],
    }


@pytest.mark.parametrize(
    ("release", "problem"),
    [
        ('ID=debian\nVERSION_ID="13"\n', ""),
        ('PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_ID="12"\n', "this is Debian GNU/Linux 12;"),
        ('PRETTY_NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="13"\n', "this is Ubuntu;"),
        ("", "this is an unknown system;"),
    ],
)
def test_operating_systems(release: str, problem: str) -> None:
    found = host_check.os_problem(release)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_what_is_installed_is_what_dpkg_has_unpacked_and_configured() -> None:
    shown = "installed podman 5.4.2+ds1-2+b2\nconfig-files ufw 0.36\nhalf-configured nginx 1.26\n"

    def run(argv: list[str], **_options: Any) -> tuple[int, str, str]:
        return 0, shown if argv[0] == "dpkg-query" else "", ""

    assert host_check.installed_packages(Host(run)) == {"podman": "5.4.2+ds1-2+b2"}


@pytest.mark.parametrize(
    ("packages", "asked"), [({"podman": "5.4.2"}, []), ({"crun": "1.21"}, ["apt-cache"]), ({}, ["apt-cache"])]
)
def test_apt_is_only_asked_for_what_is_not_installed(packages: dict[str, str], asked: list[str]) -> None:
    commands = []

    def run(argv: list[str], **_options: Any) -> tuple[int, str, str]:
        commands.append(argv[0])
        return 0, "Candidate: 5.4.2\n", ""

    assert host_check.podman_problem(host_check.podman_policy(Host(run), packages)) == ""
    assert commands == asked


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ("podman:\n  Installed: (none)\n  Candidate: 5.4.2+ds1-2+b2\n", ""),
        ("podman:\n  Installed: 5.6.0\n  Candidate: 5.4.2\n", ""),
        ("podman:\n  Installed: 4.3.1+ds1\n  Candidate: 5.4.2\n", "podman 4.3.1+ds1 is older than 5.4"),
        ("", "apt offers no podman"),
    ],
)
def test_podman_versions(policy: str, problem: str) -> None:
    found = host_check.podman_problem(policy)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_listening_ports_are_read_from_the_kernels_table() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
        "   1: 0100007F:1F90 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n"
    )
    assert sockets.local_ports(table, sockets.LISTENING) == {80: "4711"}


def test_a_port_in_use_names_the_program() -> None:
    class Handler(BaseHTTPRequestHandler):
        pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_port
        found = list(host_check.port_problems(Host(Recorder()), [port]))
    assert [where for where, _what in found] == [f"port {port}"]
    assert "is taken by" in found[0][1]


DEBIANS = "#!/usr/sbin/nft -f\nflush ruleset\n"


@pytest.mark.parametrize(
    ("states", "rules", "ours", "problems"),
    [
        ({}, DEBIANS, False, []),
        ({"ufw": "active", "firewalld": "inactive"}, DEBIANS, False, ["firewall ufw"]),
        ({"ufw": "active", "firewalld": "active"}, DEBIANS, False, ["firewall ufw", "firewall firewalld"]),
        ({"nftables": "enabled"}, DEBIANS, False, []),
        ({"nftables": "enabled"}, f"{DEBIANS}table inet mine {{}}\n", False, ["/etc/nftables.conf"]),
        ({"nftables": "disabled"}, f"{DEBIANS}table inet mine {{}}\n", False, []),
        # Once deployed it is not read any more.
        ({"nftables": "enabled"}, f"{DEBIANS}table inet mine {{}}\n", True, []),
        ({"nftables": "enabled"}, None, False, []),
    ],
)
def test_other_firewalls_are_named(
    tmp_path: Path, states: dict[str, str], rules: str | None, ours: bool, problems: list[str]
) -> None:
    md5 = hashlib.md5(DEBIANS.encode(), usedforsecurity=False).hexdigest()

    def run(argv: list[str], **_options: Any) -> tuple[int, str, str]:
        if argv[0] == "dpkg-query":
            return 0, f"\n /etc/nftables.conf {md5}\n", ""
        names = ("firewalld", "nftables", "ufw")
        return 0, "\n\n".join(_shown(name, states.get(name, "")) for name in names), ""

    host = Host(run, tmp_path)
    if rules is not None:
        host.write("/etc/nftables.conf", rules)
    if ours:
        host.write(nftables.DROP_IN, "")
    assert [where for where, _what in host_check.firewall_problems(host)] == problems


def _shown(name: str, state: str) -> str:
    active, file = (state, "enabled") if "active" in state else ("inactive", state)
    return f"Id={name}.service\nActiveState={active}\nUnitFileState={file}"


BODY = b'{"schemaVersion": 2}'


@pytest.fixture
def registry() -> Iterator[str]:
    """A registry that has one manifest, under any digest, and wants a token for private images."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/missing/" in self.path:
                self.send_error(404)
            elif "/broken/" in self.path:
                self.send_error(500)
            elif "/private/" in self.path:
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic")
                self.end_headers()
            elif self.path.startswith("/token"):
                self._give(b'{"token": "anonymous"}')
            elif "/tokened/" in self.path and self.headers["Authorization"] != "Bearer anonymous":
                self.send_response(401)
                realm = f"http://{self.headers['Host']}/token"
                self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="test",scope="pull"')
                self.end_headers()
            else:
                self._give(BODY)

        def _give(self, body: bytes) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "digest", "problem"),
    [
        ("app", "right", ""),
        ("app:1.0", "right", ""),
        ("tokened/app", "right", ""),
        ("private/app", "right", ""),
        ("app", "wrong", "digest mismatch:"),
        ("missing/app", "right", "image not found:"),
        ("broken/app", "right", "registry answered 500"),
    ],
)
def test_images_at_a_registry(registry: str, name: str, digest: str, problem: str) -> None:
    value = hashlib.sha256(BODY).hexdigest() if digest == "right" else "0" * 64
    found = check_image(f"{registry}/{name}@sha256:{value}", insecure=[registry])
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("app:1.0", ""),
        ("tokened/app:1.0", ""),
        ("private/app:1.0", "the registry wants a password before it tells"),
        ("missing/app:1.0", "image not found:"),
        ("broken/app:1.0", "registry answered 500"),
    ],
)
def test_a_tag_is_resolved_to_the_digest_of_its_manifest(registry: str, name: str, problem: str) -> None:
    reference = f"{registry}/{name}"
    params = {"images": {"app": reference}, "insecure_registries": [registry], "update_tags": False}
    tags, problems = host_check.resolve_tags(Host(Recorder()), params)
    assert tags == ({} if problem else {reference: f"sha256:{hashlib.sha256(BODY).hexdigest()}"})
    assert [found.startswith(problem) for found in problems.values()] == ([True] if problem else [])
    assert list(host_check.image_problems(Host(Recorder()), params, tags)) == (
        [] if problem else [("app", "")]
    )


def test_a_registry_that_is_gone() -> None:
    found = check_image(f"127.0.0.1:9/app@sha256:{'0' * 64}", insecure=["127.0.0.1:9"])
    assert "cannot be reached" in found


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("r.test/a/b@sha256:0", "https://r.test/v2/a/b/manifests/sha256:0"),
        ("r.test:5000/a/b:1@sha256:0", "http://r.test:5000/v2/a/b/manifests/sha256:0"),
        ("r.test:5000/a/b:1.2", "http://r.test:5000/v2/a/b/manifests/1.2"),
        (
            "docker.io/library/redis@sha256:0",
            "https://registry-1.docker.io/v2/library/redis/manifests/sha256:0",
        ),
    ],
)
def test_manifest_addresses(reference: str, url: str) -> None:
    assert manifest_url(reference, ["r.test:5000"]) == url


@pytest.mark.parametrize(
    ("apart", "free", "problems"),
    [
        (False, {"srv": 500}, []),
        (False, {"srv": 499}, ["disk under /srv/ark"]),
        (True, {"srv": 500, "containers": 100}, []),
        (True, {"srv": 500, "containers": 99}, ["disk under /var/lib/containers"]),
        (True, {"srv": 0, "containers": 0}, ["disk under /srv/ark", "disk under /var/lib/containers"]),
    ],
)
def test_there_is_room_where_the_data_is_and_where_the_images_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool, free: dict[str, int], problems: list[str]
) -> None:
    """Of a database of 200 MiB a release makes two more."""
    (tmp_path / "srv/ark/data").mkdir(parents=True)
    os.truncate(os.open(tmp_path / "srv/ark/data/a.db", os.O_CREAT | os.O_WRONLY), 200 * 2**20)
    (tmp_path / "var/lib").mkdir(parents=True)
    containers = tmp_path / "var/lib/containers"
    containers.symlink_to("/dev/shm") if apart else containers.mkdir()
    present = Release(units=(Unit("memoryark-a", "a", "", 0, "", "", databases=("/srv/ark/data/a.db",)),))
    monkeypatch.setattr(Store, "known", lambda _store, _number: present)

    def disk_usage(path: Path) -> Any:
        name = "containers" if path == containers and apart else "srv"
        return SimpleNamespace(free=free[name] * 2**20)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    host = Host(Recorder(), tmp_path)
    found = host_check.disk_problems(host, "/srv/ark", 100 * 2**20)
    assert [where for where, what in found if what] == problems


@pytest.mark.parametrize(
    ("zone", "there", "wrong"),
    [
        ("Asia/Taipei", True, False),
        ("Asia/Taipie", True, True),
        ("Asia", True, True),
        ("Asia/Taipie", False, False),
    ],
)
def test_a_time_zone_that_the_host_does_not_have(tmp_path: Path, zone: str, there: bool, wrong: bool) -> None:
    """One that has no time zones at all gets them with the role base."""
    if there:
        (tmp_path / "usr/share/zoneinfo/Asia").mkdir(parents=True)
        (tmp_path / "usr/share/zoneinfo/Asia/Taipei").touch()
    found = host_check.zone_problem(Host(Recorder(), tmp_path), zone)
    assert (f"there is no time zone '{zone}' on the host" in found) is wrong
