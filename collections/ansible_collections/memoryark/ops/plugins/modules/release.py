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
  - Pulls, loads or builds images, keeps secrets and lets the Quadlet generator check all units
    before anything that runs is touched.
  - Archives of images are sent from the control node, and only when the host lacks the image.
  - Starts what is new or changed in the order of its dependencies.
    Each start waits until the container is healthy.
  - When any of that fails, the release before is put back and proven healthy, and the module fails with the
    last log of the container at fault. Until a release is proven, a boot runs the one before it.
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
        description:
          - Image reference with digest.
          - Below C(localhost/memoryark/) one with a digest is in O(archives), one with a tag in O(builds).
        type: str
        required: true
      level:
        description: Services start in the order of their levels.
        type: int
        required: true
      health_limit:
        description:
          - Seconds for which its health checks may fail while it starts.
          - C(0) for as long as systemd lets it.
        type: float
        default: 0.0
      monitor:
        description: Seconds for which it must stay healthy before the release counts.
        type: float
        default: 5.0
      live:
        description: Whether it reads its configuration anew when its unit is reloaded.
        type: bool
        default: false
      databases:
        description: Paths of SQLite databases that it may migrate.
        type: list
        elements: str
        default: []
      rolling:
        description: Whether the service serves on while its containers are changed.
        type: bool
        default: false
      surge:
        description: Whether this container runs only while others of the service are changed.
        type: bool
        default: false
      parallelism:
        description: How many containers of a rolling service are changed at a time.
        type: int
        default: 1
      delay:
        description: Seconds between two changes of containers of a rolling service.
        type: float
        default: 0.0
      grace:
        description: Seconds within which a container ends what it has begun.
        type: float
        default: 10.0
      ports:
        description: Ports on which a proxy reaches it.
        type: list
        elements: int
        default: []
      check:
        description: Command that checks its configuration. C({config}) stands for the set of files.
        type: list
        elements: str
        default: []
  networks:
    description: The networks, as M(memoryark.ops.networks) takes them.
    type: list
    elements: dict
    default: []
  openings:
    description:
      - What the firewall opens, as elements of its sets by set. Without it the firewall stays as it is.
    type: dict
    default: {}
  secrets:
    description: Values of the secrets by name.
    type: dict
    default: {}
  archives:
    description: Paths of OCI archives on the control node by the reference of their image.
    type: dict
    default: {}
  builds:
    description: How to build images on the host, and those on which they stand.
    type: list
    elements: dict
    default: []
    suboptions:
      image:
        description: Name with a tag.
        type: str
        required: true
      base:
        description: Name of the image that it stands on. Without it, the image is Debian itself.
        type: str
        default: ""
      base_argument:
        description: The build argument that names O(builds[].base).
        type: str
        default: ""
      arguments:
        description: More build arguments.
        type: dict
        default: {}
      containerfile:
        description: Path of the Containerfile in O(builds[].context).
        type: str
        default: ""
      context:
        description: Files by path, each with its C(content) in base64 and whether it is C(executable).
        type: dict
        default: {}
  tags:
    description:
      - Digests by the image references with a tag that the inventory has for them. They are recorded on the
        host when the release is committed.
    type: dict
    default: {}
  by:
    description: Who deploys, for the audit log.
    type: str
    default: ""
  commit:
    description: The version of the project that is deployed, for the audit log.
    type: str
    default: ""
  version:
    description:
      - The version of the project that is deployed, by its breaking changes. It is noted on the host when the
        release has become healthy.
    type: int
    default: 0
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
release:
  description: Number of the release that the host boots, null before the first.
  returned: success
  type: int
tags:
  description: The digests for which image references with a tag stand in this release.
  returned: success
  type: dict
downtime:
  description:
    - What each unit of the plan costs its users.
    - C(none); C(seconds), until it is healthy again; C(backup), the same with a copy of its databases first;
      C(removed), for good.
  returned: success
  type: dict
plan:
  description: What was, or in check mode would be, done.
  returned: success
  type: dict
  contains:
    pull:
      description: Images that the host does not have and a registry has.
      type: list
      elements: str
    load:
      description: Images that the host does not have and an archive has.
      type: list
      elements: str
    build:
      description: Images that the host does not have and builds.
      type: list
      elements: str
    networks:
      description: Networks that are missing or differ. What is on these is stopped and started again.
      type: list
      elements: str
    open:
      description: What the firewall is to open, each as set and element.
      type: list
      elements: str
    close:
      description: What the firewall is to close. That is done last.
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
    roll:
      description: Changed units of services that serve on while these are changed, one after the other.
      type: list
      elements: str
    reload:
      description: Units that read a changed configuration anew.
      type: list
      elements: str
    start:
      description: Units that do not run.
      type: list
      elements: str
    repair:
      description: Units of an earlier run that did not come to its end; this run puts them in order.
      type: list
      elements: str
    remove:
      description: Units that are no longer in the release.
      type: list
      elements: str
    retire:
      description: Units that are no longer in the release, of services that are. They stop last.
      type: list
      elements: str
"""

import secrets
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.memoryark.ops.plugins.module_utils import databases
from ansible_collections.memoryark.ops.plugins.module_utils.audit import (
    audited,
    note_cut_off,
    origin,
    run_alone,
)
from ansible_collections.memoryark.ops.plugins.module_utils.diff import difference
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.images import (
    TAGS,
    Sources,
    tags_text,
)
from ansible_collections.memoryark.ops.plugins.module_utils.release import (
    bind,
    secret_names,
    secret_version,
)
from ansible_collections.memoryark.ops.plugins.module_utils.store import Store
from ansible_collections.memoryark.ops.plugins.module_utils.transaction import prepare, survey, switch

SECRET_KEY = "/var/lib/memoryark/secret-version.key"  # noqa: S105 - a file's name


def deploy(host: Host, params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Bring the host to the release in ``params``; return the module's result."""
    names = secret_names(secret_versions(host, params["secrets"], check))
    wanted = bind(params, names)
    store = Store(host, params["root"])
    check_newest(store, params["version"])
    plan, result = survey(host, store, wanted)
    notes = changed_notes(
        host, result, {store.version_file: f"{params['version']}\n", TAGS: tags_text(params["tags"])}
    )
    if not check:
        note_cut_off(host, store.current())
        if plan.empty:
            for path, text in notes.items():
                host.write(path, text)
        else:
            values = {names[name]: value for name, value in params["secrets"].items()}
            with audited(host, store.current, "deploy", params, result):
                number = prepare(host, store, wanted, plan, values, sources=sources(params))
                switch(host, store, number, wanted, plan, origin=origin(params), notes=notes)
                result["release"] = number
        # The result has it among its warnings.
        host.delete(databases.RECOVERED)
    return {**result, "tags": params["tags"]}


def check_newest(store: Store, version: int) -> None:
    """Raise HostError if somebody with a newer project was faster; preflight could not know it."""
    noted = store.version()
    if noted is not None and noted > version:
        raise HostError(
            f"the host was deployed by version {noted} of this project meanwhile, and this is {version}; "
            "bring it up to date"
        )


def changed_notes(host: Host, result: dict[str, Any], notes: Mapping[str, str]) -> dict[str, str]:
    """Return those of ``notes``, texts by path, that are new, and note them in the module's ``result``."""
    present = {path: host.read(path) or "" for path in notes}
    changed = {path: text for path, text in notes.items() if present[path] != text}
    result["changed"] |= bool(changed)
    result["diff"] += [difference(path, present[path], text) for path, text in changed.items()]
    return changed


def sources(params: dict[str, Any]) -> Sources:
    """Return where the images come from that no registry has."""
    return Sources(params["archives"], {recipe["image"]: recipe for recipe in params["builds"]})


def secret_versions(host: Host, values: dict[str, str], check: bool) -> dict[str, str]:
    """Return each secret's version under this host's own key, which is made on first use."""
    text = host.read(SECRET_KEY)
    if text is None:
        text = secrets.token_hex(32)
        if not check:
            host.write(SECRET_KEY, text, mode=0o600)
    return {name: secret_version(text.encode(), value) for name, value in values.items()}


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
                    "health_limit": {"type": "float", "default": 0.0},
                    "monitor": {"type": "float", "default": 5.0},
                    "live": {"type": "bool", "default": False},
                    "databases": {"type": "list", "elements": "str", "default": []},
                    "rolling": {"type": "bool", "default": False},
                    "surge": {"type": "bool", "default": False},
                    "parallelism": {"type": "int", "default": 1},
                    "delay": {"type": "float", "default": 0.0},
                    "grace": {"type": "float", "default": 10.0},
                    "ports": {"type": "list", "elements": "int", "default": []},
                    "check": {"type": "list", "elements": "str", "default": []},
                },
            },
            "networks": {"type": "list", "elements": "dict", "default": []},
            "openings": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "archives": {"type": "dict", "default": {}},
            "builds": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "image": {"type": "str", "required": True},
                    "base": {"type": "str", "default": ""},
                    "base_argument": {"type": "str", "default": ""},
                    "arguments": {"type": "dict", "default": {}},
                    "containerfile": {"type": "str", "default": ""},
                    "context": {"type": "dict", "default": {}},
                },
            },
            "tags": {"type": "dict", "default": {}},
            "by": {"type": "str", "default": ""},
            "commit": {"type": "str", "default": ""},
            "version": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    run_alone(module, deploy)


if __name__ == "__main__":
    main()
