#!/usr/bin/python
# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings one release of containers onto the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Bring a release of Quadlet containers onto the host
version_added: "0.1.0"
description:
  - Compares a rendered release with the host, and changes only what differs.
  - Pulls images, keeps secrets, lets the Quadlet generator check all units, and only then installs them.
  - Starts what is new or changed in the order of its dependencies.
    Each start waits until the container is healthy.
  - The release is rendered from the catalogue by M(memoryark.ops.preflight).
options:
  root:
    description: Host directory of data and configuration.
    type: path
    required: true
  quadlets:
    description: Quadlet units by file name. C({secret:NAME}) stands for the present version of a secret.
    type: dict
    required: true
  systemd_units:
    description: Plain systemd units by file name.
    type: dict
    default: {}
  configs:
    description: Configuration files by service and path below the service's directory.
    type: dict
    default: {}
  services:
    description: The services in the release.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name in the catalogue.
        type: str
        required: true
      unit:
        description: Name of its unit without suffix.
        type: str
        required: true
      image:
        description: Image reference with digest.
        type: str
        required: true
      level:
        description: Services start in the order of their levels.
        type: int
        required: true
  secrets:
    description: Values of the secrets by name.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Reports the plan and changes nothing.
    support: full
  diff_mode:
    description: Shows every file that changes. Secrets appear as names of their versions only.
    support: full
author: memoryark-ops contributors (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Run one container
  memoryark.ops.release:
    root: /srv/memoryark
    quadlets:
      memoryark-redis.container: "{{ redis_unit }}"
    services:
      - name: redis
        unit: memoryark-redis
        image: "{{ redis_image }}"
        level: 0
"""

RETURN = r"""
plan:
  description: What was, or in check mode would be, done.
  returned: success
  type: dict
  contains:
    pull:
      description: Images that the host does not have.
      type: list
      elements: str
    secrets:
      description: Versions of secrets that the host does not have.
      type: list
      elements: str
    write:
      description: Files that are new or differ.
      type: list
      elements: str
    delete:
      description: Files of an earlier release.
      type: list
      elements: str
    create:
      description: Units that are new.
      type: list
      elements: str
    restart:
      description: Units whose unit, configuration, secret or image changed.
      type: list
      elements: str
    start:
      description: Units that do not run.
      type: list
      elements: str
    remove:
      description: Units that are no longer in the release.
      type: list
      elements: str
"""

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils.diff import difference
from ansible_collections.memoryark.ops.plugins.module_utils.host import (
    QUADLET_GENERATOR,
    UNIT_LABEL,
    Host,
    HostError,
)
from ansible_collections.memoryark.ops.plugins.module_utils.plan import (
    FINGERPRINT_LABEL,
    SECRET_PREFIX,
    Found,
    Plan,
    Wanted,
    WantedService,
    bind_secrets,
    fingerprint,
    label_unit,
    make_plan,
    secret_names,
    secret_version,
)

QUADLET_DIRECTORY = "/etc/containers/systemd/memoryark"
SYSTEMD_DIRECTORY = "/etc/systemd/system"
STATE_DIRECTORY = "/var/lib/memoryark"
SECRET_KEY = f"{STATE_DIRECTORY}/secret-version.key"
OWNED = f"{STATE_DIRECTORY}/owned.json"
LOCK = "/run/lock/memoryark-release"
TARGET = "memoryark.target"


@contextmanager
def alone() -> Iterator[None]:
    """Keep a second run out; the kernel gives the lock back when a run dies, however it dies."""
    with Path(LOCK).open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError("another deployment is at work on this host; wait until it has ended") from None
        yield


def deploy(host: Host, params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Bring the host to the release in ``params``; the whole course of a deployment."""
    names = secret_names(secret_versions(host, params["secrets"], check))
    wanted = bind(params, names)
    found = observe(host, wanted)
    plan = make_plan(wanted, found)
    result = {"changed": not plan.empty, "plan": plan.shown(), "diff": differences(wanted, found, plan)}
    if plan.empty or check:
        return result
    pull(host, plan)
    validate(host, wanted)
    create_secrets(host, plan, params["secrets"], names)
    stop(host, plan.remove)
    install(host, wanted, found, plan)
    start(host, plan)
    remove_old_secrets(host, names)
    return result


def secret_versions(host: Host, values: dict[str, str], check: bool) -> dict[str, str]:
    """Return each secret's version under this host's own key, which is made on first use."""
    text = host.read(SECRET_KEY)
    if text is None:
        text = secrets.token_hex(32)
        if not check:
            host.write(SECRET_KEY, text, mode=0o600)
    return {name: secret_version(text.encode(), value) for name, value in values.items()}


def bind(params: dict[str, Any], names: dict[str, str]) -> Wanted:
    """Return the release with its secrets' versions and its fingerprints."""
    files = {f"{SYSTEMD_DIRECTORY}/{name}": text for name, text in params["systemd_units"].items()}
    services = []
    for service in params["services"]:
        own = {
            f"{params['root']}/config/{service['name']}/{path}": text
            for path, text in sorted(params["configs"].get(service["name"], {}).items())
        }
        unit_file = f"{QUADLET_DIRECTORY}/{service['unit']}.container"
        unit = bind_secrets(params["quadlets"][f"{service['unit']}.container"], names)
        value = fingerprint([unit, *own, *own.values()])
        own[unit_file] = label_unit(unit, value)
        files |= own
        services.append(
            WantedService(
                service["name"], service["unit"], service["image"], service["level"], tuple(own), value
            )
        )
    return Wanted(files, tuple(services), frozenset(names.values()))


def observe(host: Host, wanted: Wanted) -> Found:
    """Look at everything on the host that the release is about."""
    owned = frozenset(json.loads(host.read(OWNED) or "[]"))
    texts = {path: host.read(path) for path in {*wanted.files, *owned}}
    files = {path: text for path, text in texts.items() if text is not None}
    quadlets = (Path(path) for path in files if path.startswith(QUADLET_DIRECTORY))
    units = frozenset(path.stem for path in quadlets if path.suffix == ".container")
    containers = host.podman_json("ps", "--all", "--format=json", f"--filter=label={FINGERPRINT_LABEL}")
    images = host.podman_json("image", "ls", "--format=json")
    return Found(
        files=files,
        owned=owned & frozenset(files),
        units=units,
        fingerprints={
            container["Labels"][UNIT_LABEL].removesuffix(".service"): container["Labels"][FINGERPRINT_LABEL]
            for container in containers
            if UNIT_LABEL in container["Labels"]
        },
        active=host.active_units(units),
        images=frozenset(name for image in images for name in image.get("RepoDigests") or ()),
        secrets=host.secrets(),
    )


def differences(wanted: Wanted, found: Found, plan: Plan) -> list[dict[str, str]]:
    """Return the file differences for ``--diff``, and one entry that shows the plan for the containers."""
    shown = [
        difference(path, found.files.get(path, ""), wanted.files.get(path, ""))
        for path in [*plan.write, *plan.delete]
    ]
    actions = [
        f"{word} {unit}\n"
        for word, units in plan.shown().items()
        if word not in {"write", "delete"}
        for unit in units
    ]
    if actions:
        shown.append(difference("plan", "", "".join(actions)))
    return shown


def pull(host: Host, plan: Plan) -> None:
    """Fetch images before anything else changes; Podman checks their digests."""
    for reference in plan.pull:
        host.run(["podman", "pull", "--quiet", reference])


def validate(host: Host, wanted: Wanted) -> None:
    """Let the generator judge all units in a directory of their own before they are installed."""
    with tempfile.TemporaryDirectory(prefix="memoryark-") as name:
        for path, text in wanted.files.items():
            if path.startswith(QUADLET_DIRECTORY):
                (Path(name) / Path(path).name).write_text(text, encoding="utf-8")
        host.run([QUADLET_GENERATOR, "-dryrun"], env={"QUADLET_UNIT_DIRS": name})


def create_secrets(host: Host, plan: Plan, values: dict[str, str], names: dict[str, str]) -> None:
    """Give Podman the versions that it does not have yet; values go through standard input only."""
    for name, value in values.items():
        if names[name] in plan.secrets:
            host.run(["podman", "secret", "create", names[name], "-"], data=value)


def stop(host: Host, units: tuple[str, ...]) -> None:
    """Stop units that leave the release, while systemd still knows them."""
    if units:
        host.run(["systemctl", "stop", *(f"{unit}.service" for unit in units)])


def install(host: Host, wanted: Wanted, found: Found, plan: Plan) -> None:
    """Put the files in place; what is owned is noted before it exists, so that nothing is ever orphaned."""
    host.write(OWNED, json.dumps(sorted({*wanted.files, *found.owned}), indent=1))
    for path in plan.write:
        host.write(path, wanted.files[path])
    for path in plan.delete:
        host.delete(path)
    host.write(OWNED, json.dumps(sorted(wanted.files), indent=1))
    host.run(["systemctl", "daemon-reload"])
    for service in wanted.services:
        state = host.unit_properties(f"{service.unit}.service", "LoadState")["LoadState"]
        if state != "loaded":
            raise HostError(f"systemd does not know {service.unit}.service (LoadState={state})")
    host.run(["systemctl", "enable", TARGET])


def start(host: Host, plan: Plan) -> None:
    """Start level by level; ``systemctl`` returns when a container is healthy or has failed to be."""
    units = [f"{unit}.service" for level in plan.levels for unit in level]
    if units:
        # A start limit that an earlier attempt ran into must not refuse this one.
        host.run(["systemctl", "reset-failed", *units])
    for level in plan.levels:
        names = [f"{unit}.service" for unit in level]
        try:
            host.run(["systemctl", "restart", *names])
        except HostError as error:
            failed = sorted(set(level) - host.active_units(level)) or list(level)
            logs = "\n".join(
                f"--- last log of {unit} ---\n{host.journal(f'{unit}.service')}" for unit in failed
            )
            raise HostError(f"{', '.join(failed)} did not become healthy; {error}\n{logs}") from error
    host.run(["systemctl", "start", TARGET])


def remove_old_secrets(host: Host, names: dict[str, str]) -> None:
    """Remove versions of secrets that no unit names any more."""
    old = sorted(
        name for name in host.secrets() if name.startswith(SECRET_PREFIX) and name not in names.values()
    )
    if old:
        host.run(["podman", "secret", "rm", *old])


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "quadlets": {"type": "dict", "required": True},
            "systemd_units": {"type": "dict", "default": {}},
            "configs": {"type": "dict", "default": {}},
            "services": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "unit": {"type": "str", "required": True},
                    "image": {"type": "str", "required": True},
                    "level": {"type": "int", "required": True},
                },
            },
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        with alone():
            result = deploy(Host(module.run_command), module.params, module.check_mode)
        module.exit_json(**result)
    except HostError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
