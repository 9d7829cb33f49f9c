"""The main job, done from outside: a member sends a photo to the bot and it is in the archive."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
import time
import zlib
from dataclasses import dataclass

from line_platform.client import Delivered

from memoryark_lab import network, world
from memoryark_lab.authority import ensure_authority
from memoryark_lab.errors import LabError
from memoryark_lab.hosts import Host

DATABASE = "/srv/memoryark/data/memoryark.db"
UPLOADS = "/srv/memoryark/uploads"

# Runs on the host, whose Python has sqlite3. Read-only, so that it can never disturb the archive.
_LOOK = """
import json, sqlite3, sys
database = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True)
database.row_factory = sqlite3.Row
rows = database.execute("select * from files where sha256_hash = ? and is_directory = 0", (sys.argv[2],))
print(json.dumps([dict(row) for row in rows]))
"""


@dataclass(frozen=True)
class Archived:
    """A photo that made it: what was sent, and where it is kept."""

    sha256: str
    size: int
    file_path: str
    webhook_seconds: float
    archived_seconds: float


def photo(seed: int | None = None, side: int = 96) -> bytes:
    """A PNG picture, different for each ``seed``; colourful noise of ``side`` pixels squared."""
    noise = random.Random(seed)  # noqa: S311 - pictures need no secrecy
    rows = b"".join(b"\0" + noise.randbytes(3 * side) for _row in range(side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def curl(host: Host, url: str, *options: str, timeout: float = 60.0) -> subprocess.CompletedProcess[bytes]:
    """Fetch ``url`` from outside of the host, as a visitor: through TLS, trusting the lab's authority."""
    names = [world.domain(host.name), world.line_domain(host.name)]
    known = [f"{name}:{port}:{host.address}" for name in names for port in (80, 443)]
    resolve = [part for entry in known for part in ("--resolve", entry)]
    trust = ["--cacert", str(ensure_authority().certificate)]
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        f"{timeout:g}",
        *trust,
        *resolve,
        *options,
        url,
    ]
    return subprocess.run(network.outside(command), capture_output=True, check=False)


def rows(host: Host, sha256: str) -> list[dict[str, object]]:
    """The archive's database rows of a photo."""
    found: list[dict[str, object]] = json.loads(host.ssh(["python3", "-c", _LOOK, DATABASE, sha256]).stdout)
    return found


def stored_sha256(host: Host, file_path: str) -> str:
    """The hash of a file in the archive's uploads, as the host's own tool computes it."""
    path = f"{UPLOADS}/{file_path.removeprefix('uploads/')}"
    return host.ssh(["sha256sum", path]).stdout.split()[0]


def send(host: Host, data: bytes) -> Delivered:
    """A member sends ``data`` as a photo; LINE tells the bot."""
    return world.control().send_photo(data, endpoint=world.webhook_url(host.name))


def wait_until_archived(host: Host, sha256: str, seconds: float = 120.0) -> str:
    """Wait until the database knows the photo; its path. Raises LabError when time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = rows(host, sha256)
        if found:
            return str(found[0]["file_path"])
        time.sleep(1.0)
    raise LabError(f"the photo {sha256[:12]}… was not archived within {seconds:.0f} s")


def served_sha256(host: Host, file_path: str) -> str:
    """The hash of what visitors get for a path in the archive."""
    answer = curl(host, f"https://{world.domain(host.name)}/{file_path}", "--fail")
    if answer.returncode != 0:
        raise LabError(f"{file_path} is not served: {answer.stderr.decode().strip()}")
    return hashlib.sha256(answer.stdout).hexdigest()


def travel(host: Host, data: bytes) -> Archived:
    """Send a photo and follow it to the end; raises LabError where it gets lost."""
    sha256 = hashlib.sha256(data).hexdigest()
    begun = time.monotonic()
    delivered = send(host, data)
    if not delivered.success:
        raise LabError(f"the webhook failed: {delivered.reason}, {delivered.detail}")
    path = wait_until_archived(host, sha256)
    archived = time.monotonic() - begun
    for what, found in (("stored", stored_sha256(host, path)), ("served", served_sha256(host, path))):
        if found != sha256:
            raise LabError(f"the {what} photo is another one: {found} instead of {sha256}")
    return Archived(sha256, len(data), path, delivered.latency_seconds, archived)
