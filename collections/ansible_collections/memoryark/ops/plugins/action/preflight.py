# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks inventory, catalogue and host, reports all problems at once, and hands on the rendered release."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.memoryark.ops.plugins.module_utils.images import way
from ansible_collections.memoryark.ops.plugins.plugin_utils.breaking import (
    Change,
    check_acknowledged,
    load_changes,
    newest,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import IMAGES, load_catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.certificates import (
    check_certificate,
    first_certificate,
    proxy_of,
    secrets_of,
    site,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.origin import operator, version
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import Problem, ProblemsError, report
from ansible_collections.memoryark.ops.plugins.plugin_utils.quantities import parse_size
from ansible_collections.memoryark.ops.plugins.plugin_utils.release import (
    build_release,
    pin_tags,
    public_names,
    published_ports,
    reserved_memory,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.settings import (
    SETTINGS,
    UNSET,
    check_clock,
    check_secrets,
    check_settings,
    unknown_settings,
    usable,
    variables,
)

HOST_CHECK = "memoryark.ops.host_check"
# What other plays hand around under the prefix of the settings.
NOT_SETTINGS = {"memoryark_release"}


@dataclass(frozen=True)
class Answer:
    """What a host says: its problems, digests of tags, its packages, and which files it lacks."""

    problems: list[Problem]
    tags: dict[str, str] = field(default_factory=dict)
    packages: dict[str, Any] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)


class ActionModule(ActionBase):
    """The rim: reads task arguments, runs the host check, words the result."""

    TRANSFERS_FILES = False
    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the release as the fact ``memoryark_release``, or fail with every problem."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        path = {"type": "path", "required": True}
        _validated, args = self.validate_argument_spec({"stack": path, "breaking_changes": path})
        settings, problems = self._settings(task_vars)
        problems += unknown_settings(set(task_vars) - NOT_SETTINGS) + check_settings(settings)
        settings = usable(settings)
        stack = Path(args["stack"])
        catalogue, release = None, {}
        try:
            catalogue = read_catalogue(stack, settings)
        except ProblemsError as error:
            problems += error.problems
        changes = None
        try:
            changes = load_changes(Path(args["breaking_changes"]))
        except ProblemsError as error:
            problems += error.problems
        secrets = settings["memoryark_secrets"] or {}
        # Without a catalogue it is not known which secrets are used; their form still is.
        taken = catalogue is not None and proxy_of(catalogue) is not None
        method = str(settings["memoryark_certificate"]) if taken else ""
        used = secrets if catalogue is None else {*catalogue.secret_names, *secrets_of(method)}
        problems += check_secrets(secrets, used)
        names = [] if catalogue is None else named(catalogue)
        problems += check_certificate(method, secrets, names, datetime.now(UTC))
        host = self._ask_host(settings, catalogue, changes, task_vars)
        problems += host.problems
        try:
            if catalogue is not None:
                release = build_release(
                    pin_tags(catalogue, host.tags), stack, settings["memoryark_root"], variables(settings)
                )
        except ProblemsError as error:
            problems += error.problems
        if problems:
            result |= {"failed": True, "msg": report(sorted(set(problems)))}
        elif catalogue is not None:
            made = {
                "by": operator(),
                "commit": version(stack),
                "version": newest(changes or []),
                "certificate": site(catalogue, settings, settings["memoryark_root"], names),
                "certificate_absent": bool(host.absent),
            }
            result |= {
                "changed": False,
                "ansible_facts": {"memoryark_release": {**release, **made}, "packages": host.packages},
            }
        return result

    def _settings(self, task_vars: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
        """Return the inventory's settings with defaults, and those that cannot be evaluated."""
        settings = {name: setting.default for name, setting in SETTINGS.items()}
        problems = []
        for name in SETTINGS:
            if name in task_vars:
                try:
                    settings[name] = self._templar.template(task_vars[name])
                except AnsibleError as error:
                    problems.append(Problem(f"inventory {name}", f"cannot be evaluated: {error}."))
        return settings, problems

    def _ask_host(
        self,
        settings: Mapping[str, Any],
        catalogue: Catalogue | None,
        changes: list[Change] | None,
        task_vars: dict[str, Any],
    ) -> Answer:
        """Return what the host says of itself.

        Without a catalogue or changes it asks only what does not depend on them.
        """
        try:
            disk = parse_size(settings["memoryark_disk_needed"])
        except ValueError as error:
            return Answer([Problem("inventory memoryark_disk_needed", f"{error}.")])
        arguments: dict[str, Any] = {
            "root": settings["memoryark_root"],
            "disk_needed": disk,
            "timezone": settings["memoryark_timezone"],
            "insecure_registries": [
                entry["location"] for entry in settings["memoryark_registries"] if entry.get("insecure")
            ],
        }
        if catalogue is not None:
            arguments |= {
                "ports": published_ports(catalogue),
                "names": named(catalogue) if settings["memoryark_resolve_names"] else [],
                "images": {
                    f"{IMAGES}.{name}": service.image
                    for name, service in catalogue.services.items()
                    if way(service.image) == "pull"
                },
                "update_tags": settings["memoryark_update_tags"],
                "memory_needed": reserved_memory(catalogue),
                "paths": first_certificate(catalogue, settings["memoryark_root"]),
            }
        before = time.time()
        answer = self._execute_module(module_name=HOST_CHECK, module_args=arguments, task_vars=task_vars)
        if answer.get("failed"):
            return Answer([Problem("host", str(answer.get("msg", "the host check failed")))])
        problems = [Problem(found["where"], found["what"]) for found in answer["problems"]]
        if changes is not None:
            problems += check_acknowledged(changes, answer["version"], settings["memoryark_acknowledged"])
        problems += check_clock(before, answer["time"], time.time())
        return Answer(problems, answer["tags"], answer["packages"], answer["absent"])


def named(catalogue: Catalogue) -> list[str]:
    """Return the public host names, without those of settings that are missing."""
    return [name for name in public_names(catalogue) if name != UNSET]


def read_catalogue(stack: Path, settings: Mapping[str, Any]) -> Catalogue:
    """Return the catalogue as the inventory has it; raises ProblemsError."""
    return load_catalogue(
        stack,
        override=settings["memoryark_compose"] or {},
        images=settings["memoryark_images"] or {},
        variables=variables(settings),
        secrets=set(settings["memoryark_secrets"] or {}),
        build_date=str(settings["memoryark_build_date"] or ""),
    )
