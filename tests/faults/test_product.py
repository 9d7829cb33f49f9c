"""Whatever happens in a release of the whole product, it serves, and no photo is lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from memoryark_lab import deployment, hosts, journey, load, stages, world
from memoryark_lab.hosts import Host
from two_services import (
    NAME,
    NEVER_HEALTHY,
    ROLLBACK,
    containers,
    current,
    cut_power,
    is_active,
    listing,
    said,
    start,
    wait_until,
)

SITE = "site.yml"
# What the host is put back to before each fault.
SNAPSHOT = "faults-product"
NAMES = {"redis", "memoryark-backend", "memoryark-frontend", "prometheus", "line-service", "nginx-proxy"}
BACKUPS = "/srv/memoryark/backups"
# The image as a later version of the application: its own schema comes with it.
MIGRATES = {"environment": {"LAB_SCHEMA_VERSION": "2"}}
BREAKS_OFF = {"environment": {"LAB_SCHEMA_VERSION": "3"}}
CHANGED = {"environment": {"CHANGED": "yes"}}
SICK = {**CHANGED, "healthcheck": NEVER_HEALTHY}

# Runs on the host. Read-only, so that it can never disturb the archive.
_SCHEMA = """
import json, sqlite3, sys
database = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True)
tables = dict(database.execute("select name, sql from sqlite_master"))
print(json.dumps({"version": database.execute("pragma user_version").fetchone()[0], "tables": tables}))
"""


@dataclass(frozen=True)
class Before:
    """The archive before a fault: a photo, all that the database says of it, the schema, the release."""

    photo: journey.Archived
    rows: list[dict[str, object]]
    schema: dict[str, Any]
    release: int


@pytest.fixture(scope="session")
def before() -> Before:
    """The whole product on the host, as it is in this working copy, with a photo in its archive."""
    stages.stage(NAME, "product")
    deployment.deploy_or_fail(NAME, show=True)
    host = hosts.get(NAME)
    photo = journey.travel(host, journey.photo(1))
    found = Before(photo, journey.rows(host, photo.sha256), schema(host), current(host))
    hosts.snapshot(NAME, SNAPSHOT)
    return found


@pytest.fixture
def host(before: Before) -> Host:
    """The host with the product, for each fault anew."""
    assert before.rows, "the photo is not in the archive"
    return hosts.restore(NAME, SNAPSHOT)


def options(services: dict[str, Any]) -> list[str]:
    """Command line options that change services by Compose keys."""
    return ["--extra-vars", json.dumps({"lab_changes": {"services": services}})]


def deploy(**services: Any) -> deployment.Run:
    return deployment.deploy(NAME, *options(services))


def begin(**services: Any) -> subprocess.Popen[bytes]:
    """A deployment that goes on while the test does something else."""
    return start(*options(services), playbook=SITE)


def roll_back() -> deployment.Run:
    return deployment.deploy(NAME, playbook=ROLLBACK)


def schema(host: Host, path: str = journey.DATABASE) -> dict[str, Any]:
    """A database's tables and its version. Nobody may be writing to it: to look would disturb that."""
    found: dict[str, Any] = json.loads(host.ssh(["python3", "-c", _SCHEMA, path]).stdout)
    return found


def works(host: Host, left: Collection[str] = ()) -> bool:
    """Whether all services are healthy with no other container there but ``left``, and a visitor is served."""
    health = host.ssh(["podman", "inspect", "--format", "{{.State.Health.Status}}", *NAMES], check=False)
    page = journey.curl(host, f"https://{world.domain(NAME)}/api/health", "--fail")
    return (
        health.stdout.split() == ["healthy"] * len(NAMES)
        and set(containers(host)) - set(left) == NAMES
        and page.returncode == 0
    )


def assert_archive_is_whole(host: Host, photo: journey.Archived, new: int) -> None:
    """The photo from before is on the disk and on the site, and a new one gets there."""
    assert journey.stored_sha256(host, photo.file_path) == photo.sha256
    assert journey.served_sha256(host, photo.file_path) == photo.sha256
    journey.travel(host, journey.photo(new))


def assert_as_before(host: Host, before: Before) -> None:
    """The release before the fault serves with its data, and a deployment of it finds nothing to do."""
    wait_until("the release before", lambda: works(host), 300)
    assert current(host) == before.release
    assert schema(host) == before.schema
    assert journey.rows(host, before.photo.sha256) == before.rows
    assert_archive_is_whole(host, before.photo, new=2)
    run = deployment.deploy(NAME)
    assert (run.code, run.changed) == (0, 0), run.output


def assert_taken_back(run: deployment.Run, release: int, *words: str) -> None:
    """A run failed, said why, and put a release back."""
    assert run.code != 0
    for word in (*words, f"Release {release} is back and healthy."):
        assert word in said(run), run.output


@contextmanager
def visited(host: Host) -> Iterator[None]:
    """A webhook and a page a second while the block runs, as an emulated host can bear; none may fail."""
    with (
        load.running(host, load.webhook(NAME), rate=1.0, timeout=60) as webhooks,
        load.running(host, load.page(NAME), rate=1.0, timeout=60) as pages,
    ):
        yield
    assert (webhooks.failed, pages.failed) == (0, 0), (webhooks.statuses, pages.statuses)
    assert min(len(webhooks.records), len(pages.records)) > 10


# --- Migrations


def test_a_migration_that_fails_half_way(host: Host, before: Before) -> None:
    run = deploy(**{"memoryark-backend": BREAKS_OFF})
    why = "the migration to schema version 3 failed"
    assert_taken_back(run, before.release, "memoryark-backend did not become healthy", why)
    assert_as_before(host, before)
    kept = schema(host, kept_database(host))
    assert kept["version"] == 2
    assert "albums" in kept["tables"]


def test_a_migration_in_a_release_that_fails_later(host: Host, before: Before) -> None:
    run = deploy(**{"memoryark-backend": MIGRATES, "line-service": SICK})
    assert_taken_back(run, before.release, "memoryark-line-service-next did not become healthy")
    assert_as_before(host, before)
    assert schema(host, kept_database(host))["version"] == 2


def migrated(host: Host) -> list[str]:
    """The databases that were kept when earlier ones came back."""
    return host.ssh(["sh", "-c", f"ls -d {journey.DATABASE}.migrated-* 2>/dev/null; true"]).stdout.split()


def kept_database(host: Host) -> str:
    (kept,) = migrated(host)
    return kept


def has_migrated(host: Host) -> bool:
    """Whether the later version of the backend runs and is healthy."""
    version = ["podman", "exec", "memoryark-backend", "printenv", "LAB_SCHEMA_VERSION"]
    return host.ssh(version, check=False).stdout.strip() == "2" and is_active(host, "memoryark-backend")


def test_the_power_goes_after_a_migration_and_before_the_commit(host: Host, before: Before) -> None:
    running = begin(**{"memoryark-backend": {**MIGRATES, "deploy": {"update_config": {"monitor": "15m"}}}})
    wait_until("the migration", lambda: has_migrated(host), 400)
    assert schema(host)["version"] == 2
    cut_power(running)
    log = ["journalctl", "--boot", "--no-pager", "--output=cat", "--unit=memoryark-recovery"]
    kept = kept_database(host)
    told = f"{journey.DATABASE} is again as it was before the release; what that had made of it is {kept}"
    assert told in host.ssh(log).stdout
    assert_as_before(host, before)
    assert schema(host, kept)["version"] == 2


def test_a_migration_that_holds_keeps_the_older_program_away(host: Host, before: Before) -> None:
    new = deploy(**{"memoryark-backend": MIGRATES})
    assert new.code == 0, new.output
    release, rows = current(host), journey.rows(host, before.photo.sha256)
    assert [row["description"] for row in rows] == ["migrated"] * len(rows)

    # Data does not go back: the older program refuses it, and the release that serves stays.
    why = "the database has schema version 2, this program knows 1"
    assert_taken_back(roll_back(), release, "memoryark-backend did not become healthy", why)
    wait_until("the present release", lambda: works(host), 300)
    assert current(host) == release
    assert schema(host)["version"] == 2
    assert journey.rows(host, before.photo.sha256) == rows
    assert migrated(host) == []
    assert_archive_is_whole(host, before.photo, new=3)

    # docs/runbooks/deploy-again.en.md: the copy from before that release comes back first.
    host.ssh(["systemctl", "stop", "memoryark-backend"])
    host.ssh(["mv", journey.DATABASE, f"{BACKUPS}/of-the-bad-version.db"])
    host.ssh(["rm", "--force", f"{journey.DATABASE}-journal"])
    host.ssh(["cp", f"{BACKUPS}/releases/{release}/data/memoryark.db", journey.DATABASE])
    back = roll_back()
    assert back.code == 0, back.output
    assert_as_before(host, before)


# --- The proxy and the bot, while they are asked


def test_a_configuration_that_nginx_refuses(host: Host, before: Before) -> None:
    # As somebody writes it who thinks of an API's description.
    route = {"host": world.domain(NAME), "path": "/albums/{id}", "port": 8080}
    old = containers(host)
    with visited(host):
        run = deploy(**{"memoryark-frontend": {"x-memoryark": {"routes": [route]}}})
    assert run.code != 0
    for words in ("nginx-proxy refuses its configuration", "unknown directive"):
        assert words in said(run), run.output
    assert containers(host) == old
    assert_as_before(host, before)


def test_a_bot_that_never_becomes_healthy(host: Host, before: Before) -> None:
    old = containers(host)
    with visited(host):
        run = deploy(**{"line-service": SICK})
    assert_taken_back(run, before.release, "memoryark-line-service-next did not become healthy")
    assert containers(host) == old
    assert_as_before(host, before)


def test_bot_and_pages_go_back_without_a_failed_request(host: Host, before: Before) -> None:
    new = deploy(**{"line-service": CHANGED, "memoryark-frontend": CHANGED})
    assert new.code == 0, new.output
    old = containers(host)
    with visited(host):
        run = roll_back()
    assert run.code == 0, run.output
    now = containers(host)
    assert {name for name in now if now[name] != old.get(name)} == {"line-service", "memoryark-frontend"}
    assert_as_before(host, before)


def test_a_second_bot_comes_and_goes_without_a_failed_request(host: Host, before: Before) -> None:
    old = containers(host)
    with visited(host):
        more = deploy(**{"line-service": {"deploy": {"replicas": 2}}})
        assert more.code == 0, more.output
        assert containers(host) == old | {"line-service-2": containers(host)["line-service-2"]}
        fewer = deploy()
    assert fewer.code == 0, fewer.output
    assert containers(host) == old
    assert works(host)
    assert_archive_is_whole(host, before.photo, new=2)


def test_the_power_goes_while_the_bot_is_changed(host: Host, before: Before) -> None:
    running = begin(**{"line-service": SICK})
    wait_until("the one that stands in", lambda: "line-service-next" in containers(host), 400)
    cut_power(running)
    # No boot starts it; the next run takes away what is left of it.
    left = "line-service-next"
    wait_until("the release before", lambda: works(host, {left}), 300)
    assert not is_active(host, f"memoryark-{left}")
    run = deployment.deploy(NAME)
    assert run.code == 0, run.output
    assert_as_before(host, before)


# --- The end


def test_uninstalled_it_leaves_its_data_and_deployed_again_it_has_it(host: Host, before: Before) -> None:
    run = deployment.deploy(NAME, "-e", f"confirm={NAME}", playbook="playbooks/uninstall.yml")
    assert run.code == 0, run.output
    left = listing(host)
    assert {kind: left[kind] for kind in ("containers", "secrets", "units")} == {
        kind: set() for kind in ("containers", "secrets", "units")
    }
    assert left["networks"] == {"podman"}
    assert {path for path in left["files"] if "memoryark" in path} == set()
    assert "memoryark" not in host.ssh(["nft", "list", "tables"]).stdout
    assert journey.stored_sha256(host, before.photo.file_path) == before.photo.sha256

    again = deployment.deploy(NAME)
    assert again.code == 0, again.output
    wait_until("the product", lambda: works(host), 300)
    assert schema(host) == before.schema
    assert journey.rows(host, before.photo.sha256) == before.rows
    assert_archive_is_whole(host, before.photo, new=2)
