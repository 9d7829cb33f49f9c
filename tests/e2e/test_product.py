"""The whole product on one host, in the order in which an operator meets it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memoryark_lab import deployment, hosts, images, journey, load, network, world
from memoryark_lab.hosts import Host

UNITS = [
    "memoryark-redis",
    "memoryark-backend",
    "memoryark-frontend",
    "memoryark-prometheus",
    "memoryark-line-service",
    "memoryark-nginx-proxy",
]
CONTAINERS = ["redis", "memoryark-backend", "memoryark-frontend", "prometheus", "line-service", "nginx-proxy"]
MEBIBYTE = 2**20


def wait_until(what: str, done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(1.0)


def containers(host: Host) -> dict[str, tuple[str, str, str]]:
    """Id, start time and health of every container, by name."""
    form = "{{.Name}} {{.Id}} {{.State.StartedAt}} {{.State.Health.Status}}"
    lines = host.ssh(["podman", "inspect", "--format", form, *CONTAINERS]).stdout.splitlines()
    found = {}
    for line in lines:
        name, identity, *started, health = line.split()
        found[name] = (identity, " ".join(started), health)
    return found


def status_of(host: Host, url: str, *options: str, timeout: float = 60.0) -> str:
    answer = journey.curl(
        host, url, "--output", "/dev/null", "--write-out", "%{http_code}", *options, timeout=timeout
    )
    return answer.stdout.decode()


def everything_works(host: Host) -> bool:
    active = host.ssh(["systemctl", "is-active", *UNITS], check=False).stdout.split()
    return (
        active == ["active"] * len(UNITS) and status_of(host, f"https://{world.domain(host.name)}/") == "200"
    )


def trace(host: Host) -> str:
    """What a deployment would leave on a host."""
    places = ["/etc/containers", "/etc/systemd/system", "/srv", "/var/lib/memoryark", "/usr/bin/podman"]
    return host.ssh(["find", *places, "-xdev"], check=False).stdout


def test_every_mistake_is_named_at_once_and_the_host_is_left_alone(virgin: Host, tmp_path: Path) -> None:
    before = trace(virgin)
    mistakes = {
        "memoryark_domian": "typo.memoryark.test",
        "memoryark_line_channel_id": "your-line-channel-id",
        "memoryark_disk_needed": "900G",
        "memoryark_secrets": {"line_channel_secret": "short", "jwt_secret": "change-me", "tls_key": "x" * 40},
        "memoryark_compose": {
            "services": {"redis": {"netwoks": ["x"], "deploy": {"resources": {"limits": {"memory": "512X"}}}}}
        },
    }
    file = tmp_path / "mistakes.json"
    file.write_text(json.dumps(mistakes))
    run = deployment.deploy(virgin.name, "--extra-vars", f"@{file}")
    assert run.code != 0
    said = " ".join(run.output.split())
    for words in [
        "memoryark_domian: there is no such setting. Did you mean 'memoryark_domain'?",
        "memoryark_line_channel_id: 'your-line-channel-id' is still a placeholder",
        "services.redis: 'netwoks' is not supported here. Did you mean 'networks'?",
        "services.redis.deploy.resources.limits.memory: '512X' is not a size",
        "MiB of disk free, 921600 MiB are needed",
        "memoryark_secrets.line_channel_secret: has not the form of this secret: 32 hexadecimal digits",
        "memoryark_secrets.jwt_secret: is still a placeholder",
    ]:
        assert words in said, said
    assert run.changed == 0
    assert trace(virgin) == before


def test_what_only_the_host_can_tell_is_found_before_anything_changes(virgin: Host, tmp_path: Path) -> None:
    before = trace(virgin)
    references = {name: image.reference for name, image in images.known().items()}
    missing = f"{references['redis'].rpartition('@')[0]}@sha256:{'0' * 64}"
    file = tmp_path / "mistakes.json"
    file.write_text(
        json.dumps(
            {
                "memoryark_images": {**references, "redis": missing},
                "memoryark_resolve_names": True,
            }
        )
    )
    run = deployment.deploy(virgin.name, "--extra-vars", f"@{file}")
    assert run.code != 0
    said = " ".join(run.output.split())
    assert f"memoryark_images.redis: image not found: {missing}" in said, said
    assert f"name {world.domain(virgin.name)}: does not resolve" in said, said
    assert trace(virgin) == before


def test_a_check_run_on_a_virgin_host_tells_what_will_happen_and_writes_nothing(virgin: Host) -> None:
    before = trace(virgin)
    run = deployment.deploy(virgin.name, "--check", "--diff")
    assert run.code == 0, run.output
    assert "create memoryark-redis" in run.output
    assert run.changed > 0
    assert trace(virgin) == before


def test_the_first_run_deploys_everything(host: Host, deployed: deployment.Run) -> None:
    assert deployed.changed > 0
    assert everything_works(host)
    assert {name: state[2] for name, state in containers(host).items()} == dict.fromkeys(
        CONTAINERS, "healthy"
    )


def test_a_second_run_changes_nothing_and_restarts_nothing(host: Host) -> None:
    before = containers(host)
    run = deployment.deploy_or_fail(host.name)
    assert run.changed == 0, run.output
    assert containers(host) == before


def test_a_photo_sent_to_the_bot_ends_in_the_archive(host: Host) -> None:
    data = journey.photo(1)
    archived = journey.travel(host, data)
    assert archived.sha256 == hashlib.sha256(data).hexdigest()
    assert archived.file_path.startswith("uploads/files/")
    assert archived.webhook_seconds < 2.0


def test_the_same_photo_twice_is_kept_once(host: Host) -> None:
    data = journey.photo(1)
    journey.travel(host, data)
    # The archive lists every sending and keeps one file.
    paths = {row["file_path"] for row in journey.rows(host, hashlib.sha256(data).hexdigest())}
    assert len(paths) == 1


@pytest.mark.parametrize("signature", ["wrong", "missing", "other-secret"])
def test_a_webhook_without_a_good_signature_is_refused(host: Host, signature: str) -> None:
    data = journey.photo(2)
    delivered = world.control().send_photo(data, endpoint=world.webhook_url(host.name), signature=signature)
    assert delivered.status == 401
    assert journey.rows(host, hashlib.sha256(data).hexdigest()) == []


def test_line_may_test_the_webhook_without_events(host: Host) -> None:
    delivered = world.control().send(endpoint=world.webhook_url(host.name))
    assert delivered.status == 200


def test_the_specified_limits_hold_in_the_running_cgroup(host: Host) -> None:
    group = host.ssh(
        ["podman", "inspect", "--format", "{{.State.CgroupPath}}", "line-service"]
    ).stdout.strip()
    files = [
        f"/sys/fs/cgroup{group}/{name}" for name in ("memory.max", "memory.swap.max", "cpu.max", "pids.max")
    ]
    memory, swap, cpu, pids = host.ssh(["cat", *files]).stdout.splitlines()
    assert (memory, swap, pids) == (str(512 * MEBIBYTE), "0", "256")
    quota, period = map(int, cpu.split())
    assert quota / period == 1.0
    wanted = {
        "Restart": "always",
        "RestartUSec": "5s",
        "StartLimitBurst": "4",
        "MemoryLow": str(256 * MEBIBYTE),
        "CPUWeight": "50",
        "Slice": "memoryark.slice",
    }
    shown = host.ssh(["systemctl", "show", "memoryark-line-service", f"--property={','.join(wanted)}"]).stdout
    assert dict(line.split("=", 1) for line in shown.splitlines()) == wanted
    group = "/sys/fs/cgroup/memoryark.slice"
    low, weight = map(int, host.ssh(["cat", f"{group}/memory.low", f"{group}/cpu.weight"]).stdout.split())
    assert low >= 256 * MEBIBYTE
    assert weight == 500


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_is_confined(host: Host, name: str) -> None:
    state = json.loads(host.ssh(["podman", "inspect", name]).stdout)[0]
    assert state["HostConfig"]["ReadonlyRootfs"]
    assert state["EffectiveCaps"] in (None, [])
    assert state["HostConfig"]["Memory"] > 0
    assert state["HostConfig"]["NanoCpus"] > 0
    status = host.ssh(["cat", f"/proc/{state['State']['Pid']}/status"]).stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["Uid"].split()[0]) >= 100_000
    assert fields["CapBnd"] == "0" * 16
    assert fields["NoNewPrivs"] == "1"


def test_no_secret_stands_in_any_file_or_log(host: Host) -> None:
    known = world.facts()["secrets"]
    places = ["/etc", "/srv/memoryark/config", "/run/systemd/generator", "/var/lib/memoryark"]
    for name, value in known.items():
        found = host.ssh(
            ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "-e", value, *places],
            check=False,
        )
        assert found.stdout == "", f"{name} stands in {found.stdout}"
        count = 'journalctl --no-pager | grep --count --fixed-strings -e "$0"'
        logged = host.ssh(["sh", "-c", count, value], check=False)
        assert logged.stdout.strip() == "0", f"{name} is in the journal"


@pytest.mark.parametrize("port", [3000, 6379, 8080, 8081, 8443, 9090])
def test_nothing_but_the_proxy_answers_outside(host: Host, port: int) -> None:
    probe = ["curl", "--silent", "--max-time", "5", f"http://{host.address}:{port}/"]
    done = subprocess.run(network.outside(probe), capture_output=True, check=False)
    assert done.returncode in {7, 28}, f"port {port} answers: {done.stdout!r}"


def test_plain_http_is_sent_to_tls(host: Host) -> None:
    domain = world.domain(host.name)
    answer = journey.curl(host, f"http://{domain}/a?b=c", "--head")
    assert b" 308 " in answer.stdout.splitlines()[0]
    assert f"Location: https://{domain}/a?b=c".encode() in answer.stdout


def test_the_site_answers_over_ipv6(host: Host) -> None:
    domain = world.domain(host.name)
    known = [option for port in (80, 443) for option in ("--resolve", f"{domain}:{port}:[{host.address6}]")]
    answer = journey.curl(
        host, f"https://{domain}/api/health", *known, "--ipv6", "--write-out", " %{remote_ip}"
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.decode().endswith(f" {host.address6}")


def test_a_name_that_is_not_ours_gets_no_certificate(host: Host) -> None:
    url = "https://other.memoryark.test/"
    answer = journey.curl(host, url, "--resolve", f"other.memoryark.test:443:{host.address}")
    assert answer.returncode == 35


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", "200"),
        ("/albums/2026", "200"),
        ("/api/health", "200"),
        ("/uploads/exports/all.zip", "200"),  # the frontend's page, not the backend's folder
        ("/api/files", "401"),
        ("/api/line/info", "404"),
    ],
)
def test_routes_of_the_archive(host: Host, path: str, status: str) -> None:
    url = f"https://{world.domain(host.name)}{path}"
    identity = "CF-Access-Authenticated-User-Email: admin@memoryark.test"
    assert status_of(host, url, "--header", identity) == status


@pytest.mark.parametrize("path", ["/", "/health", "/api/line/info", "/webhook/health", "/webhook/line/x"])
def test_the_bots_name_has_the_webhook_and_nothing_else(host: Host, path: str) -> None:
    assert status_of(host, f"https://{world.line_domain(host.name)}{path}") == "404"


def test_websockets_pass_the_proxy(host: Host) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "bWVtb3J5YXJrLW9wcy10ZQ==",
    }
    options = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
    url = f"https://{world.domain(host.name)}/api/ws"
    answer = journey.curl(host, url, "--include", "--http1.1", *options, timeout=8)
    assert b" 101 " in answer.stdout.splitlines()[0]


@pytest.mark.parametrize(("size", "status"), [(100 * MEBIBYTE, {"200", "201"}), (102 * MEBIBYTE, {"413"})])
def test_uploads_of_a_hundred_megabytes_and_no_more(
    host: Host, tmp_path: Path, size: int, status: set[str]
) -> None:
    file = tmp_path / "large.jpg"
    with file.open("wb") as out:
        out.truncate(size)
    token = world.facts()["secrets"]["internal_api_token"]
    found = status_of(
        host,
        f"https://{world.domain(host.name)}/api/api-access/files/upload",
        "--form",
        f"file=@{file};type=image/jpeg",
        "--header",
        f"Authorization: Bearer {token}",
        timeout=300,
    )
    assert found in status


def log_entries(host: Host, mark: str, count: int) -> list[dict[str, Any]]:
    """The lines of the access log with ``mark``, once there are ``count``; the proxy writes within a second."""
    find = ["journalctl", "--no-pager", "--output=json", "--unit=memoryark-nginx-proxy", f"--grep={mark}"]

    def found() -> list[dict[str, Any]]:
        lines = host.ssh(find, check=False).stdout.splitlines()
        return [json.loads(json.loads(line)["MESSAGE"]) for line in lines if line]

    wait_until(f"{count} lines of the log", lambda: len(found()) >= count, 30)
    return found()


def test_the_log_has_the_clients_own_address(host: Host) -> None:
    mark = f"address-{time.monotonic_ns()}"
    assert status_of(host, f"https://{world.domain(host.name)}/{mark}") == "200"
    (entry,) = log_entries(host, mark, 1)
    assert (entry["client"], entry["status"]) == (network.GATEWAY, 200)


def test_every_request_is_one_line_of_the_journal(host: Host) -> None:
    mark, unit = f"numbered-{time.monotonic_ns()}", "memoryark-nginx-proxy"
    changes = [["journalctl", "--rotate"], ["systemctl", "reload", unit], ["systemctl", "restart", unit]]
    for number, change in enumerate([*changes, []]):
        for request in range(10):
            url = f"https://{world.domain(host.name)}/{mark}-{number}-{request}"
            assert status_of(host, url) == "200"
        host.ssh(change or ["true"])
    assert sorted(entry["path"] for entry in log_entries(host, mark, 40)) == sorted(
        f"/{mark}-{number}-{request}" for number in range(4) for request in range(10)
    )


def test_prometheus_scrapes_what_the_catalogue_declares(host: Host) -> None:
    # Prometheus publishes nothing: it is asked inside its container.
    command = ["podman", "exec", "prometheus", "promtool", "query", "instant", "http://127.0.0.1:9090", "up"]
    wait_until("a scrape", lambda: 'job="prometheus"} => 1' in host.ssh(command).stdout, 90)


def test_host_settings(host: Host) -> None:
    assert host.ssh(["date", "+%Z %z"]).stdout.split() == ["CST", "+0800"]
    synchronised = ["timedatectl", "show", "--property=NTP", "--value"]
    assert host.ssh(synchronised).stdout.strip() == "yes"


def test_the_bot_and_the_pages_are_changed_without_a_failed_request(host: Host) -> None:
    change = {"environment": {"CHANGED": "yes"}}
    changes = {"lab_changes": {"services": {"line-service": change, "memoryark-frontend": change}}}
    before = containers(host)
    # An emulated host is busy with more than a few handshakes a second, and the bot takes 100 a minute.
    with (
        load.running(host, load.webhook(host.name), rate=1.0, timeout=60) as webhooks,
        load.running(host, load.page(host.name), rate=1.0, timeout=60) as pages,
    ):
        run = deployment.deploy_or_fail(host.name, "--extra-vars", json.dumps(changes))
    assert run.changed == 1, run.output
    after = containers(host)
    changed = {name for name in CONTAINERS if after[name] != before[name]}
    assert changed == {"line-service", "memoryark-frontend"}
    assert (webhooks.failed, pages.failed) == (0, 0), (webhooks.statuses, pages.statuses)
    assert len(webhooks.records) > 30
    names = host.ssh(["podman", "ps", "--format", "{{.Names}}"]).stdout.split()
    assert sorted(names) == sorted(CONTAINERS)


@pytest.mark.parametrize(
    ("how", "seed"), [(hosts.reboot, 10), (hosts.cut_power, 11)], ids=["reboot", "power cut"]
)
def test_everything_comes_back_by_itself(host: Host, how: Callable[[str], object], seed: int) -> None:
    archived = journey.travel(host, journey.photo(seed))
    # Now, not later: what the archive has taken must be on the disk.
    how(host.name)
    wait_until("everything healthy again", lambda: everything_works(host), 300)
    assert journey.rows(host, archived.sha256)[0]["file_path"] == archived.file_path
    assert journey.stored_sha256(host, archived.file_path) == archived.sha256
    assert journey.served_sha256(host, archived.file_path) == archived.sha256
    journey.travel(host, journey.photo(seed + 100))
