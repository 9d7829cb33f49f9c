"""A host in memory: files below a directory, and just enough of systemd, Quadlet and Podman to deploy to."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from ansible_collections.memoryark.ops.plugins.module_utils import databases, networks, nftables, store
from ansible_collections.memoryark.ops.plugins.module_utils import host as host_module
from ansible_collections.memoryark.ops.plugins.module_utils.host import UNIT_LABEL, Host, HostError
from ansible_collections.memoryark.ops.plugins.module_utils.release import FINGERPRINT_LABEL

# Podman commands of two words.
GROUPS = {"secret", "image", "network", "volume"}
QUADLETS = "etc/containers/systemd/memoryark"
TRIAL = "run/systemd/system"
NETWORKS = "etc/containers/networks"


# What the release module takes for a container of which nothing is said.
PLAIN: dict[str, Any] = {
    "level": 0,
    "health_limit": 0.0,
    "monitor": 0.0,
    "live": False,
    "databases": [],
    "check": [],
    "rolling": False,
    "surge": False,
    "parallelism": 1,
    "delay": 0.0,
    "grace": 5.0,
    "ports": [],
}


class PowerCutError(BaseException):
    """The host is gone; nothing of the program that ran on it catches this."""


class Machine:
    """Answers the commands of the modules as a real host does.

    Containers of images in ``broken`` never become healthy, those in ``fragile`` fail when they are looked
    at again. ``watch`` sees every command before it is carried out. ``power`` counts down with every command and every change of a file; at zero the plug is pulled.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.loaded: dict[str, str] = {}
        self.containers: dict[str, str] = {}
        self.images: set[str] = set()
        self.secrets: dict[str, str] = {}
        self.broken: set[str] = set()
        self.fragile: set[str] = set()
        self.starts: dict[str, int] = {}
        # Units that did not start, and that systemd starts again when their restart delay is over.
        self.waiting: set[str] = set()
        self.log: list[str] = []
        self.power = -1
        self.known: dict[str, dict[str, str]] = {}
        # Containers that a power cut has left; the next start of their units removes them.
        self.left: dict[str, str] = {}
        self.strangers: list[str] = []
        self.stranger_labels: dict[str, str] = {}
        self.watch: Callable[[list[str]], None] = lambda _words: None
        # Containers of others, as `podman ps` shows them; "Volumes" are for its filter.
        self.foreign: list[dict[str, Any]] = []
        self.volumes: dict[str, dict[str, str]] = {}
        self.programs = {"podman", "nft"}
        # What the firewall opens, as elements by set; None without our table.
        self.firewall: dict[str, set[str]] | None = {}
        self.unnamed: dict[str, str] = {}
        self.tagged: dict[str, str] = {}
        self.contexts: dict[str, dict[str, str]] = {}

    def host(self) -> Host:
        """A connection to it."""
        return _PoweredHost(self)

    def tick(self) -> None:
        """Use power; raises PowerCutError when it is used up."""
        if self.power == 0:
            raise PowerCutError
        self.power -= 1

    def running(self) -> dict[str, str]:
        """The texts of the units that run now, by name."""
        return dict(self.containers)

    def cut_power(self, power: int = -1) -> None:
        """Lose what is in memory and boot again; the plug may be pulled once more."""
        self.power = power
        self.left |= self.containers
        self.containers.clear()
        self.waiting.clear()
        self.loaded.clear()
        shutil.rmtree(self.base / "run", ignore_errors=True)
        places = (databases.TRIAL, databases.CURRENT, databases.RECOVERED)
        databases.at_boot(*(self.base / place.lstrip("/") for place in places))
        self.daemon_reload()
        if self.firewall is not None:
            self.firewall = {}
            text = self.host().read(f"{databases.CURRENT}/{nftables.FILE}")
            self.nft__([], [], text or "")
        self.start_all()

    def start_all(self) -> None:
        """Start the target: what it wants and does not run; whether all of that comes up, it does not care."""
        self.restore_networks()
        for unit, text in self.loaded.items():
            wanted = unit.startswith("memoryark-") and not unit.endswith("-next")
            if wanted and unit not in self.containers and not self.prevented(text):
                self.begin(unit, text)

    def pass_restart_delay(self) -> None:
        """Let systemd start again what failed, from what it has loaded by now."""
        for unit in sorted(self.waiting & set(self.loaded)):
            self.systemctl_restart([f"{unit}.service"])

    def restore_networks(self) -> None:
        """What the target does before all containers, if the release has the unit for it."""
        link = self.base / "etc/systemd/system" / networks.UNIT
        # The link is absolute on the host.
        unit = self.base / str(link.readlink()).lstrip("/") if link.is_symlink() else link
        if not unit.exists() or (self.base / TRIAL / store.TARGET).exists():
            return
        for module in (host_module, networks):
            path = f"{networks.PACKAGES}/{module.__name__.replace('.', '/')}.py"
            assert (self.base / path.lstrip("/")).exists()
        # No container needs it to have succeeded.
        with suppress(HostError, ValueError):
            networks.restore(self.host(), store.PRESENT_MANIFEST)

    def prevented(self, text: str) -> bool:
        """Whether a container cannot start: it is broken, or a network of its is missing."""
        return image(text) in self.broken or not networks_of(text) <= set(self.networks)

    @property
    def networks(self) -> dict[str, dict[str, Any]]:
        """The networks by name; as Podman does, one whose file is damaged counts as missing."""
        found = {}
        for file in sorted((self.base / NETWORKS).glob("*.json")):
            with suppress(ValueError, TypeError):
                found[file.stem] = {**json.loads(file.read_text())}
        return found

    def put_network(self, network: dict[str, Any]) -> None:
        """Keep a network in a file, as Podman does."""
        file = self.base / NETWORKS / f"{network['name']}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(network))

    def begin(self, unit: str, text: str) -> None:
        """Start a container: fill the place of its files as its unit says, and let it read them."""
        self.left.pop(unit, None)
        self.containers[unit] = text
        for path in re.findall(r"^Database=/(\S+)$", text, re.M):
            self.migrate(self.base / path, image(text))
        copy = re.search(r"^ExecStartPre=cp --update=none (\S+)/\. (\S+)$", text, re.M)
        if copy:
            source, live = (self.base / path.lstrip("/") for path in copy.groups())
            live.mkdir(parents=True, exist_ok=True)
            for file in source.iterdir():
                if not (live / file.name).exists():
                    shutil.copy(file, live)
            self.known[unit] = {file.name: file.read_text() for file in live.iterdir()}

    def migrate(self, path: Path, version: str) -> None:
        """Each version of an application adds a table of its own, and a row that must not be lost."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as database:
            database.execute(f'CREATE TABLE IF NOT EXISTS "{version}" (x)')
            database.commit()

    def tables(self, path: str) -> list[str]:
        """The versions that have migrated a database."""
        with closing(sqlite3.connect(self.base / path.lstrip("/"))) as database:
            names = database.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
            return [str(name).removeprefix("r.test/").removesuffix("@sha256:0") for (name,) in names]

    def __call__(
        self,
        argv: Sequence[str],
        data: str | None = None,
        environ_update: dict[str, str] | None = None,
        **_: Any,
    ) -> tuple[int, str, str]:
        self.tick()
        words = [word for word in argv if not word.startswith("--")]
        self.log.append(" ".join(words))
        self.watch(words)
        if Path(argv[0]).name == "quadlet":
            return self.quadlet(Path((environ_update or {})["QUADLET_UNIT_DIRS"]), Path(argv[-1]))
        method = getattr(
            self,
            "_".join(words[:3] if words[1] in GROUPS else words[:2]).replace("-", "_"),
            None,
        )
        assert method is not None, f"the machine does not know {argv}"
        rest = words[3:] if words[1] in GROUPS else words[2:]
        options = [word for word in argv if word.startswith("--")]
        answer = method(rest, options, data)
        return answer if isinstance(answer, tuple) else (0, answer or "", "")

    def quadlet(self, source: Path, target: Path) -> tuple[int, str, str]:
        for file in source.glob("*.container"):
            text = file.read_text()
            if "Memory=" in text:
                return 1, "", f"unsupported key 'Memory' in group 'Container' in {file}"
            (target / f"{file.stem}.service").write_text(text)
        return 0, "", ""

    def daemon_reload(self) -> None:
        link = self.base / QUADLETS
        # The link is absolute on the host.
        quadlets = self.base / str(link.readlink()).lstrip("/") if link.is_symlink() else link
        self.loaded = {file.stem: file.read_text() for file in quadlets.glob("*.container")}
        trial = (file for file in (self.base / TRIAL).glob("*.service") if file.name not in store.AT_BOOT)
        self.loaded |= {file.stem: file.read_text() for file in trial}

    # --- systemctl

    def systemctl_daemon_reload(self, *_: Any) -> None:
        self.daemon_reload()

    def systemctl_try_restart(self, *_: Any) -> None:
        """Nothing in here runs but containers."""

    def systemctl_reset_failed(self, names: list[str], *_: Any) -> tuple[int, str, str]:
        """As systemd does: a unit that is in nobody's memory cannot be reset."""
        unknown = [name for name in names if name.removesuffix(".service") not in self.containers]
        return (1, "", f"Unit {unknown[0]} not loaded.") if unknown else (0, "", "")

    def systemctl_start(self, names: list[str], *_: Any) -> tuple[int, str, str]:
        if store.TARGET in names:
            self.start_all()
        idle = [name for name in names if name.removesuffix(".service") not in self.containers]
        return self.systemctl_restart([name for name in idle if name.endswith(".service")])

    def systemctl_restart(self, names: list[str], *_: Any) -> tuple[int, str, str]:
        failed = []
        for name in names:
            unit = name.removesuffix(".service")
            self.containers.pop(unit, None)
            text = self.loaded[unit]
            assert image(text) in self.images, "units never pull"
            self.starts[unit] = self.starts.get(unit, 0) + 1
            self.waiting.discard(unit)
            if self.prevented(text):
                self.waiting.add(unit)
                failed.append(name)
            else:
                self.begin(unit, text)
        return (1, "", f"Job for {failed[0]} failed.") if failed else (0, "", "")

    def systemctl_reload(self, names: list[str], *_: Any) -> None:
        for name in names:
            unit = name.removesuffix(".service")
            live = self.base / "run/memoryark/config" / unit.removeprefix("memoryark-")
            self.known[unit] = {file.name: file.read_text() for file in live.iterdir()}

    def systemctl_stop(self, names: list[str], *_: Any) -> tuple[int, str, str]:
        units = {name.removesuffix(".service") for name in names}
        if self.waiting - units and units & set(self.containers):
            # Its next start, which is due, brings up what it needs, and nothing stops meanwhile.
            return 1, "", f"Job for {names[0]} canceled."
        for name in names:
            self.containers.pop(name.removesuffix(".service"), None)
            self.waiting.discard(name.removesuffix(".service"))
        return 0, "", ""

    def systemctl_show(self, names: list[str], *_: Any) -> str:
        blocks = []
        for name in names:
            unit = name.removesuffix(".service")
            text = self.containers.get(unit)
            idle = ("activating", "auto-restart") if unit in self.waiting else ("inactive", "dead")
            active, sub = ("active", "running") if text else idle
            blocks.append(
                f"Id={name}\nLoadState={'loaded' if unit in self.loaded else 'not-found'}\n"
                f"ActiveState={active}\nSubState={sub}\n"
                f"InvocationID={self.starts.get(unit, 0)}\n"
            )
            if text and image(text) in self.fragile:
                self.starts[unit] = self.starts.get(unit, 0) + 1
        return "\n".join(blocks)

    def journalctl(self, *_: Any) -> str:
        return ""

    # --- podman

    def podman_ps(self, _names: list[str], options: list[str], _data: Any) -> str:
        network = next((option.rpartition("=")[2] for option in options if "network" in option), None)
        wanted = next((option.rpartition("=")[2] for option in options if UNIT_LABEL in option), None)
        volume = next((option.rpartition("=")[2] for option in options if "volume" in option), None)
        everybody = not any("--filter" in option for option in options)
        return json.dumps(
            [
                {
                    "Id": unit,
                    "Labels": {UNIT_LABEL: f"{unit}.service", FINGERPRINT_LABEL: label(text)},
                    "Names": [unit],
                    "Pid": number,
                }
                for number, (unit, text) in enumerate((self.left | self.containers).items(), start=1)
                if (network is None or f"Network={network}:" in text)
                and (volume is None or f"Volume={volume}:" in text)
                and (wanted is None or wanted == f"{unit}.service")
            ]
            + [{"Labels": self.stranger_labels, "Names": [name]} for name in self.strangers if network]
            + [one for one in self.foreign if everybody or (volume and volume in one.get("Volumes", ()))]
        )

    def podman_rm(self, names: list[str], options: list[str], _data: Any) -> None:
        if not options:
            for name in names:
                assert name not in self.containers, f"{name} runs"
                del self.left[name]
            return
        unit = options[-1].rpartition("=")[2].removesuffix(".service")
        for containers in (self.containers, self.left):
            if options[-1] == f"--filter=label={FINGERPRINT_LABEL}":
                containers.clear()
            containers.pop(unit, None)

    def podman_network_ls(self, *_: Any) -> str:
        found = self.networks.items()
        return json.dumps([{"name": name, "labels": one.get("labels")} for name, one in found])

    def podman_network_inspect(self, names: list[str], *_: Any) -> str:
        return json.dumps([self.networks[name] for name in names])

    def podman_network_rm(self, names: list[str], *_: Any) -> None:
        users = [
            unit for unit, text in (self.left | self.containers).items() if names[0] in networks_of(text)
        ]
        users += [one["Names"][0] for one in self.foreign if names[0] in one.get("Networks", ())]
        assert not users, f"{names[0]} is used by {users}"
        (self.base / NETWORKS / f"{names[0]}.json").unlink()

    def podman_network_create(self, names: list[str], options: list[str], _data: Any) -> tuple[int, str, str]:
        given = dict(option.removeprefix("--").split("=", 1) for option in options)
        if names[0] in self.networks:
            return 125, "", f"network {names[0]} already exists"
        subnet = ipaddress.ip_network(given["subnet"])
        for other in self.networks.values():
            taken = [ipaddress.ip_network(entry["subnet"]) for entry in other.get("subnets", ())]
            if other.get("network_interface") == given["interface-name"] or any(map(subnet.overlaps, taken)):
                return 125, "", f"subnet or interface is used by {other['name']}"
        self.put_network(
            {
                "name": names[0],
                "driver": "bridge",
                "network_interface": given["interface-name"],
                "internal": False,
                "ipv6_enabled": False,
                "options": {"isolate": "strict"},
                "subnets": [{"subnet": given["subnet"]}],
                "labels": dict([given["label"].split("=")]),
            }
        )
        return 0, "", ""

    def podman_volume_ls(self, *_: Any) -> str:
        return json.dumps([{"Name": name, "Labels": labels} for name, labels in self.volumes.items()])

    def podman_volume_inspect(self, names: list[str], *_: Any) -> str:
        assert set(names) <= set(self.volumes)
        return json.dumps([{"Name": name, "Mountpoint": f"/volumes/{name}"} for name in names])

    def podman_volume_rm(self, names: list[str], *_: Any) -> None:
        for name in names:
            users = [unit for unit, text in self.containers.items() if f"Volume={name}:" in text]
            assert not users, f"{name} is used by {users}"
            del self.volumes[name]

    def podman_run(self, words: list[str], *_: Any) -> tuple[int, str, str]:
        """Let a program check the configuration in the directory that is its last argument."""
        texts = [file.read_text() for file in (self.base / words[-1].lstrip("/")).iterdir()]
        return (1, "", "syntax error") if "bad" in " ".join(texts) else (0, "", "")

    def podman_pull(self, names: list[str], *_: Any) -> tuple[int, str, str]:
        if "missing" in names[0]:
            return 125, "", "manifest unknown"
        if names[0].startswith("oci:"):
            return self.pull_layout(Path(names[0].removeprefix("oci:")))
        self.images.add(names[0])
        return 0, "", ""

    def pull_layout(self, layout: Path) -> tuple[int, str, str]:
        """An image in a directory; one with a name would take it from another image."""
        (described,) = json.loads((layout / "index.json").read_text())["manifests"]
        assert "annotations" not in described
        manifest = (layout / "blobs" / described["digest"].replace(":", "/")).read_bytes()
        config = str(json.loads(manifest)["config"]["digest"]).removeprefix("sha256:")
        self.unnamed[config] = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        return 0, f"{config}\n", ""

    def podman_tag(self, names: list[str], *_: Any) -> None:
        identity, name = names
        assert "@" not in name, "Podman refuses to"
        self.tagged[name] = f"{name.rpartition(':')[0]}@{self.unnamed[identity]}"
        self.images |= {name, self.tagged[name]}

    def podman_import(self, names: list[str], *_: Any) -> None:
        assert Path(names[0]).is_file()
        self.images.add(names[1])

    def podman_build(self, folders: list[str], options: list[str], _data: Any) -> tuple[int, str, str]:
        given = dict(option.removeprefix("--").split("=", 1) for option in options if "=" in option)
        assert given["pull"] == "never"
        folder = Path(folders[0])
        files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        self.contexts[given["tag"]] = {name: path.read_text() for name, path in files.items()}
        (base,) = re.findall(r"--build-arg=(?:ROOT|BASE)=(\S+)", " ".join(options))
        assert base in self.images
        if "broken" in Path(given["file"]).read_text():
            return 125, "", "E: Unable to locate package"
        self.images.add(given["tag"])
        return 0, "", ""

    def podman_image_ls(self, *_: Any) -> str:
        entries = []
        for name in sorted(self.images):
            key = "RepoDigests" if "@" in name else "Names"
            entries.append({"Id": f"id of {name}", key: [name]})
        return json.dumps(entries)

    def podman_image_rm(self, names: list[str], *_: Any) -> tuple[int, str, str]:
        used = {image(text) for text in self.containers.values()}
        answer = (0, "", "")
        for name in names:
            loaded = self.tagged.get(name, name)
            if {name, loaded} & used:
                answer = (2, "", "image is in use by a container")
            elif name.startswith("localhost/") and "@" in name:
                answer = (125, "", f"{name}: tag not known")
            else:
                self.images -= {name, loaded}
        return answer

    # --- apt and mmdebstrap

    def apt_get_update(self, *_: Any) -> None:
        pass

    def apt_get_install(self, names: list[str], *_: Any) -> None:
        self.programs |= set(names)

    def apt_get_indextargets(self, *_: Any) -> str:
        suites = ("trixie", "trixie-updates", "trixie-security")
        return "".join(f"http://mirror.test/debian {suite}\n" for suite in suites)

    def unshare_mmdebstrap(self, words: list[str], options: list[str], *_: Any) -> None:
        assert "mmdebstrap" in self.programs
        # It makes the mounts private, and must not make those of the host so.
        assert options[0] == "--mount"
        assert words[0] == "trixie"
        assert words[2] == "deb http://mirror.test/debian trixie main"
        Path(words[1]).write_text("Debian")

    def nft_list(self, words: list[str], *_: Any) -> str:
        if words == ["tables"]:
            tables = [] if self.firewall is None else [{"table": {"family": "inet", "name": "memoryark"}}]
            return json.dumps({"nftables": [{"metainfo": {}}, *tables]})
        assert words == ["table", *nftables.TABLE.split()]
        sets = [{"name": name, "elem": elements(found)} for name, found in (self.firewall or {}).items()]
        return json.dumps({"nftables": [{"metainfo": {}}, *({"set": one} for one in sets)]})

    def nft__(self, _words: Any, _options: Any, data: str) -> None:
        """Load a file of commands."""
        if data == nftables.GUARD.initial:
            self.firewall = None
            return
        assert self.firewall is not None
        for line in data.splitlines():
            action, _what, _family, _table, name, *rest = line.split(" ", 5)
            if action == "flush":
                self.firewall[name] = set()
            else:
                members = rest[0].strip("{ }").replace('"', "").split(", ")
                self.firewall[name] = self.firewall.get(name, set()) | set(members)

    def podman_secret_ls(self, *_: Any) -> str:
        return "\n".join(self.secrets)

    def podman_secret_create(self, names: list[str], _options: Any, data: str) -> None:
        assert names[0] not in self.secrets
        self.secrets[names[0]] = data

    def podman_secret_rm(self, names: list[str], *_: Any) -> None:
        for name in names:
            del self.secrets[name]


class _PoweredHost(Host):
    """Changes of files use power, too."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine, machine.base)
        self._machine = machine

    def has(self, program: str) -> bool:
        return program in self._machine.programs

    def write(self, name: str, content: str | bytes, mode: int = 0o644) -> None:
        self._machine.tick()
        super().write(name, content, mode)

    def link(self, name: str, target: str) -> None:
        self._machine.tick()
        super().link(name, target)

    def delete(self, name: str) -> None:
        self._machine.tick()
        super().delete(name)

    def delete_tree(self, name: str) -> None:
        self._machine.tick()
        super().delete_tree(name)

    def journal(self, unit: str, lines: int = 30) -> str:
        return f"the last {lines} lines of {unit}"


def elements(found: set[str]) -> list[Any]:
    """The elements of a set as nft's JSON has them."""
    words = [[int(part) if part.isdecimal() else part for part in one.split(" . ")] for one in sorted(found)]
    return [{"concat": parts} if len(parts) > 1 else parts[0] for parts in words]


def networks_of(text: str) -> set[str]:
    """The networks of a unit."""
    return set(re.findall(r"^Network=(.+?):", text, re.M))


def image(text: str) -> str:
    """The image of a unit."""
    return _value("Image", text)


def label(text: str) -> str:
    """The fingerprint that a unit gives its container."""
    return _value(f"Label={FINGERPRINT_LABEL}", text)


def _value(key: str, text: str) -> str:
    found = re.search(rf"^{re.escape(key)}=(.*)$", text, re.M)
    assert found is not None
    return found[1]
