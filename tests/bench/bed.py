"""The host on which the benchmark runs, and the two that are compared on it: ours and the peer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.memoryark.ops.plugins.action.preflight import read_catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.configs import render_configs
from ansible_collections.memoryark.ops.plugins.plugin_utils.merge import merge
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.settings import SETTINGS, variables
from memoryark_lab import deployment, files, hosts
from memoryark_lab.deployment import Run
from memoryark_lab.errors import LabError
from memoryark_lab.paths import REPO, STATE

from tests.bench import collection, peer

NAME = "demo"
FOLDER = STATE / "bench"
STACK = REPO / "stack"
HOST_PART = REPO / "tests" / "bench" / "peer.yml"
_PEER = FOLDER / "peer"
_LOG = "/var/log/memoryark/releases.log"
# What systemd says when it begins to start a unit (sd-messages.h); a container may say the same words itself.
_UNIT_STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"
_REMOVE_PEER = f"""
podman ps --all --quiet --filter name=^{peer.PREFIX} | xargs --no-run-if-empty podman rm --force --time 5
podman network ls --quiet --filter name=^{peer.PREFIX} | xargs --no-run-if-empty podman network rm
podman volume ls --quiet --filter name=^{peer.PREFIX} | xargs --no-run-if-empty podman volume rm
podman secret ls --quiet --filter name=^{peer.PREFIX} | xargs --no-run-if-empty podman secret rm
rm -rf {peer.ROOT} /etc/systemd/*.conf.d/peer.conf /etc/containers/*.conf.d/peer.conf /etc/sysctl.d/60-peer*.conf
"""


@dataclass(frozen=True)
class Bed:
    """A host of the lab with the product on it, and the settings that the inventory has for it."""

    host: hosts.Host
    settings: Mapping[str, Any]

    def catalogue(self, change: Mapping[str, Any] | None = None) -> Catalogue:
        """Return the catalogue as the inventory makes it, with a further change of the Compose files."""
        return read_catalogue(STACK, {**self.settings, "memoryark_compose": self._compose(change)})

    def deploy(self, change: Mapping[str, Any] | None = None) -> Run:
        """Run ``site.yml``, with a change of the Compose files; the run may fail."""
        if change is None:
            return deployment.deploy(self.host.name)
        # An extra variable takes the place of the inventory's own: what that has must be in it.
        file = FOLDER / "change.json"
        files.write(file, json.dumps({"memoryark_compose": self._compose(change)}))
        return deployment.deploy(self.host.name, "--extra-vars", f"@{file}")

    def deploy_peer(self, change: Mapping[str, Any] | None = None) -> Run:
        """Run the peer's playbook, with the same change."""
        write_peer(self.catalogue(change), variables(self.settings))
        roles = json.dumps({"peer_roles": str(REPO / "roles")})
        return deployment.deploy(self.host.name, "--extra-vars", roles, playbook=str(_PEER / "playbook.yml"))

    def roll_back(self) -> Run:
        """Run the playbook that brings the earlier release back."""
        return deployment.deploy(self.host.name, playbook="playbooks/rollback.yml")

    def remove_peer(self) -> None:
        """Remove everything that the peer has made."""
        self.host.ssh(["sh", "-c", _REMOVE_PEER], check=False)

    def containers(self) -> dict[str, str]:
        """Return what tells one start of a container from another, by name."""
        lines = self.host.ssh(["podman", "ps", "--format", "{{.Names}} {{.ID}} {{.StartedAt}}"]).stdout
        return dict(line.split(" ", 1) for line in lines.splitlines())

    def last_release(self) -> dict[str, Any]:
        """Return the last line of the audit log."""
        found: dict[str, Any] = json.loads(self.host.ssh(["tail", "-n", "1", _LOG]).stdout)
        return found

    def seconds_since_start(self, unit: str) -> float:
        """Return the seconds from the first start of a unit in the last release to the end of that release."""
        release = self.last_release()
        # The log has whole seconds; the one that had begun counts.
        end = datetime.fromisoformat(release["time"]).timestamp() + 1
        shown = ["journalctl", f"UNIT={unit}.service", f"MESSAGE_ID={_UNIT_STARTING}", "--output=json"]
        shown += [f"--since=@{end - release['seconds'] - 1:.0f}", "--lines=+1"]
        return end - float(json.loads(self.host.ssh(shown).stdout)["__REALTIME_TIMESTAMP"]) / 1e6

    def describe(self) -> dict[str, str]:
        """Return what the host is, for the page."""
        asks = {
            "virtualisation": ["systemd-detect-virt"],
            "processors": ["nproc"],
            "memory": ["awk", "/^MemTotal/ {print int($2 / 1024)}", "/proc/meminfo"],
            "podman": ["podman", "--version"],
        }
        return {name: self.host.ssh(ask, check=False).stdout.strip() for name, ask in asks.items()}

    def _compose(self, change: Mapping[str, Any] | None) -> Any:
        return merge(self.settings["memoryark_compose"], change or {})


def write_peer(catalogue: Catalogue, names: Mapping[str, str]) -> None:
    """Write the peer's playbook and configuration files for ``catalogue``."""
    own = peer.apart(catalogue)
    configs = render_configs(STACK, own, names)
    for service, texts in configs.items():
        for path, text in texts.items():
            files.write(_PEER / "files" / service / path, text)
    plays = peer.playbook(own, configs, str(_PEER / "files"), str(HOST_PART))
    files.write(_PEER / "playbook.yml", yaml.safe_dump(plays, sort_keys=False, width=110))


def settings(host: str) -> dict[str, Any]:
    """Return the settings that the inventory has for a host, evaluated; of the secrets only the names."""
    wanted = {name: f"{name} | default(none)" for name in SETTINGS} | {
        "memoryark_secrets": "dict.fromkeys(memoryark_secrets, '')"
    }
    template = "{{ {" + ", ".join(f"'{name}': {value}" for name, value in wanted.items()) + "} }}"
    program = str(Path(sys.executable).with_name("ansible"))
    command = [program, "-i", "inventories/lab", host, "-m", "ansible.builtin.debug"]
    command += ["-a", json.dumps({"msg": template})]
    environment = {**os.environ, "MEMORYARK_LAB_STATE": str(STATE), "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    done = subprocess.run(
        command,
        cwd=REPO,
        env={**environment, "ANSIBLE_FORCE_COLOR": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"the inventory of {host} cannot be read: {done.stdout}{done.stderr}")
    found = json.loads(done.stdout.partition("=> ")[2])["msg"]
    return {name: SETTINGS[name].default if value is None else value for name, value in found.items()}


@contextmanager
def bed() -> Iterator[Bed]:
    """The host that ``make demo`` has made; raises LabError without one."""
    if NAME not in hosts.names() or hosts.get(NAME).state != "running":
        raise LabError(f"the benchmark needs the deployed host {NAME}; make it with `make demo`")
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = Bed(hosts.get(NAME), settings(NAME))
    # Both run with the same settings of Ansible; the peer's collection is found beside ours.
    os.environ["ANSIBLE_COLLECTIONS_PATH"] = f"{REPO / 'collections'}:{collection.ensure(FOLDER)}"
    try:
        yield found
    finally:
        found.remove_peer()
        run = found.deploy()
        if run.code != 0:
            print(f"The host {NAME} is not as `make demo` leaves it:\n{run.output[-2000:]}", file=sys.stderr)
