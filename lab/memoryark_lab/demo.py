"""``lab demo``: the whole product on a disposable host, from nothing to a photo in the archive."""

from __future__ import annotations

import argparse

from memoryark_lab import deployment, hosts, images, journey, world
from memoryark_lab.progress import Progress, clock

NAME = "demo"


def run(name: str = NAME) -> None:
    """Build, boot, deploy, use, and say what was seen."""
    progress = Progress(steps_to_come(name))
    images.build_all(progress)
    host = hosts.up(name, memory_mb=deployment.HOST_MEMORY_MB, progress=progress)
    with progress.step("Start the LINE platform", "about 2 s"):
        world.up()
    with progress.step(
        "ansible-playbook -i inventories/lab site.yml", "8 min emulated, 1 min when unchanged"
    ):
        done = deployment.deploy_or_fail(name, show=True)
    with progress.step("Send a photo to the bot and find it in the archive", "about 15 s"):
        photo = journey.travel(host, journey.photo())
    print(summary(host, done, photo, progress))


def steps_to_come(name: str) -> int:
    """How many steps the demo will take from here."""
    return 4 + hosts.steps_up(name)


def summary(host: hosts.Host, done: deployment.Run, photo: journey.Archived, progress: Progress) -> str:
    """What there is to see, and what was verified."""
    domain = world.domain(host.name)
    taken = "\n".join(f"  {clock(seconds):>6}  {title}" for title, seconds in progress.taken)
    return f"""
MemoryArk runs on the host "{host.name}", {host.address} and {host.address6} on the lab's own network.

  Look at it     .venv/bin/lab outside -- curl --cacert .lab/ca/ca.pem --resolve {domain}:443:{host.address} https://{domain}/
  Log in         .venv/bin/lab ssh {host.name}
  Its services   .venv/bin/lab ssh {host.name} -- systemctl status memoryark.target 'memoryark-*'
  Deploy again   make demo
  Stop it        make down

Verified
  - site.yml: {done.changed} changed in {clock(done.seconds)}, every container healthy
  - a signed webhook from the LINE platform, through TLS, answered in {photo.webhook_seconds:.2f} s
  - the photo ({photo.size} bytes) archived {photo.archived_seconds:.1f} s after it was sent
  - sha256 {photo.sha256[:16]}… equal when sent, stored at uploads and served back

Time taken
{taken}"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo`` to the lab's command line."""
    parser = subparsers.add_parser("demo", help="deploy the whole product on a disposable host and use it")

    def start(_arguments: argparse.Namespace) -> int:
        run()
        return 0

    parser.set_defaults(run=start)
