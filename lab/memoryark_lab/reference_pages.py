"""The pages of docs/reference, each made from the declaration that the code itself uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import (
    Sources,
    build_catalogue,
    read_stack,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue, Service
from ansible_collections.memoryark.ops.plugins.plugin_utils.quadlet import (
    ID_RANGE_BASE,
    ID_RANGE_SIZE,
    start_timeout,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.quantities import seconds
from ansible_collections.memoryark.ops.plugins.plugin_utils.schema import load_schema
from ansible_collections.memoryark.ops.plugins.plugin_utils.settings import OTHER_SECRET, SECRETS, SETTINGS

from memoryark_lab.paths import REPO

MEANINGS = REPO / "docs" / "reference" / "compose-meanings.yml"
NOTE = "<!-- Written by `.venv/bin/lab reference`; change what it is made from: {} -->"
SECTIONS = {
    "services": "Services",
    "networks": "Networks",
    "volumes": "Volumes",
    "secrets": "Secrets",
}
# What stands for the name of an entry in keys that are mappings of names.
ENTRIES = {"networks": "network", "depends_on": "service", "ulimits": "limit"}
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def pages() -> dict[str, str]:
    """Every page as file name to text."""
    return {
        "settings.md": settings_page(),
        "roles.md": roles_page(role_specs(REPO / "roles")),
        "compose.md": compose_page(load_schema(), meanings()),
        "services.md": services_page(catalogue(REPO / "stack")),
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; nothing in a cell can end it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def page(title: str, source: str, *blocks: str) -> str:
    """A page with its origin."""
    return "\n\n".join([f"# {title}", NOTE.format(source), *(block for block in blocks if block)]) + "\n"


def code(value: Any) -> str:
    """A YAML value as code."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return f"`{text.splitlines()[0]}`"


# --- settings.md


def settings_page() -> str:
    """The inventory's settings and secrets."""
    settings = [
        [
            f"`{name}`",
            setting.description,
            "must be set" if setting.required else code(setting.default),
            setting.form,
            f"`${{{setting.variable}}}`" if setting.variable else "",
        ]
        for name, setting in SETTINGS.items()
    ]
    secrets = [[f"`{name}`", rule.description, rule.form] for name, rule in SECRETS.items()]
    return page(
        "Settings",
        "plugin_utils/settings.py",
        "What an inventory may say. A run checks all of it before it touches anything. An unknown name that "
        "begins with `memoryark_` is refused, and so is a value that was left as in the example.",
        table(["Setting", "What it is", "Default", "Form", "In Compose files"], settings),
        "## Secrets",
        "The keys of `memoryark_secrets`. No value is ever shown, neither in messages nor in differences. "
        f"A secret that an added service uses needs {OTHER_SECRET.form}.",
        table(["Secret", "What it is", "Form"], secrets),
    )


# --- roles.md


def role_specs(roles: Path) -> dict[str, Mapping[str, Any]]:
    """The ``main`` entry point of each role's argument specification."""
    return {
        file.parents[1].name: yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"]["main"]
        for file in sorted(roles.glob("*/meta/argument_specs.yml"))
    }


def roles_page(specs: Mapping[str, Mapping[str, Any]]) -> str:
    """All roles with their options."""
    blocks = [
        "Roles know nothing of each other and nothing of the inventory; `playbooks/deploy.yml` wires them. "
        "An inventory sets `memoryark_…` ([Settings](settings.md)); these options are for other playbooks."
    ]
    for name, spec in specs.items():
        blocks += [f"## {name}", f"{spec['short_description']}.", " ".join(plain(spec["description"]))]
        rows = [
            [f"`{path}`", kind(option), default(option), " ".join(plain(option["description"]))]
            for path, option in options(spec.get("options", {}))
        ]
        blocks.append(table(["Option", "Type", "Default", "What it is"], rows))
    return page("Roles", "roles/*/meta/argument_specs.yml", *blocks)


def options(specs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each option with its path, suboptions below their parent."""
    for name, option in specs.items():
        path = f"{prefix}{name}"
        yield path, option
        below = f"{path}[]." if option["type"] == "list" else f"{path}."
        yield from options(option.get("options", {}), below)


def kind(option: Mapping[str, Any]) -> str:
    """The type of an option in words."""
    return f"list of {option['elements']}" if option["type"] == "list" else str(option["type"])


def default(option: Mapping[str, Any]) -> str:
    """What holds if an option is not set."""
    return "must be set" if option.get("required") else code(option.get("default"))


def plain(description: str | Sequence[str]) -> list[str]:
    """A description without Ansible's markup."""
    lines = [description] if isinstance(description, str) else list(description)
    return [_unmarked(line) for line in lines]


def _unmarked(line: str) -> str:
    for mark in "CMV":
        while (begin := line.find(f"{mark}(")) >= 0 and (end := line.find(")", begin)) >= 0:
            line = f"{line[:begin]}`{line[begin + 2 : end]}`{line[end + 1 :]}"
    return line


# --- compose.md


def meanings() -> dict[str, dict[str, str]]:
    """What each key becomes on the host, by section and path."""
    known: dict[str, dict[str, str]] = yaml.safe_load(MEANINGS.read_text(encoding="utf-8"))
    return known


def keys(schema: Mapping[str, Any], section: str) -> dict[str, str]:
    """The keys of an entry of a section, as path to the form of the value."""
    return dict(_keys(schema["properties"][section]["additionalProperties"], ""))


def _keys(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Each alternative way of writing a value may have keys of its own."""
    for name, below in node.get("properties", {}).items():
        inner = f"{path}.{name}" if path else name
        yield inner, below.get("description", "")
        yield from _keys(below, inner)
    if "items" in node:
        yield from _keys(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), Mapping):
        yield from _keys(node["additionalProperties"], f"{path}.<{ENTRIES.get(path, 'name')}>")
    for alternative in node.get("anyOf", ()):
        yield from _keys(alternative, path)


def unexplained(paths: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """The keys that neither have a meaning nor stand below or above one that has."""
    return [path for path in paths if not any(_related(path, one) for one in known)]


def _related(path: str, explained: str) -> bool:
    shorter, longer = sorted((path, explained), key=len)
    return longer == shorter or longer.startswith((f"{shorter}.", f"{shorter}["))


def compose_page(schema: Mapping[str, Any], known: Mapping[str, Mapping[str, str]]) -> str:
    """The supported part of Compose."""
    blocks = [
        "The keys that a file below `stack/` or `memoryark_compose` may use. Any other is refused with its "
        "place and the nearest known key. [Compose on systemd](../compose-on-systemd.md) says what they can "
        "and cannot mean there, and [Services](services.md) what they come to."
    ]
    for section, title in SECTIONS.items():
        forms = keys(schema, section)
        rows = [
            [f"`{path}`", form, known[section].get(path, "")]
            for path, form in forms.items()
            # A mapping whose keys are all listed says nothing itself.
            if path in known[section] or not any(other.startswith(f"{path}.") for other in forms)
        ]
        blocks += [f"## {title}", table([f"Below `{section}.<name>`", "Write", "On the host"], rows)]
    return page("Compose keys", "plugin_utils/compose.schema.json and compose-meanings.yml", *blocks)


# --- services.md


def catalogue(stack: Path) -> Catalogue:
    """The catalogue without any inventory: its variables stand for themselves."""
    documents = read_stack(stack)
    services = [name for document in documents for name in (document.tree.get("services") or {})]
    secrets = {name for document in documents for name in (document.tree.get("secrets") or {})}
    variables = {
        setting.variable: f"${{{setting.variable}}}"
        for setting in SETTINGS.values()
        # One that has a default in the Compose file as well stands for that.
        if setting.variable and setting.required
    }
    images = {name: f"registry.test/{name}@sha256:{'0' * 64}" for name in services}
    return build_catalogue(Sources(documents, images=images, variables=variables, secrets=secrets))


def services_page(made: Catalogue) -> str:
    """What each service of the catalogue may use, and where its things are."""
    services = sorted(made.services.values(), key=lambda service: service.name)
    limits = [
        [
            f"`{one.name}`",
            f"{one.cpus:g}",
            size(one.memory),
            str(one.pids),
            f"{one.reserved_cpus:g}, {size(one.reserved_memory)}",
            f"{first_id(one)} to {first_id(one) + ID_RANGE_SIZE - 1}",
        ]
        for one in services
    ]
    times = [
        [
            f"`{one.name}`",
            seconds(start_timeout(one.health)),
            f"{one.health.retries} failures, {seconds(one.health.interval)} apart",
            restarts(one),
            seconds(one.stop_grace),
        ]
        for one in services
    ]
    places = [
        [
            f"`{one.name}`",
            ", ".join(f"`{made.networks[used.network].name}`" for used in one.networks),
            ", ".join(f"{port.published}" for port in one.ports),
            "<br>".join(place(made, source) for source in mounted(one)),
            ", ".join(f"`{name}`" for name in one.secret_names),
        ]
        for one in services
    ]
    routes = [
        [
            f"`{route.host}`",
            f"`{route.path}`",
            f"`{one.name}:{route.port}`",
            f"{route.access}, signed by LINE" if route.line_signature else route.access,
            size(route.body_size),
            f"{route.rate}",
        ]
        for one in services
        for route in one.routes
    ]
    networks = [
        [
            f"`{one.name}`",
            f"`{one.interface}`",
            ", ".join(one.subnets),
            ", ".join(f"`{protocol}/{port}`" for protocol, port in one.egress) or "nothing",
        ]
        for one in made.networks.values()
    ]
    return page(
        "Services",
        "stack/",
        "The catalogue as it stands, before an inventory changes it. Directories are below `memoryark_root`.",
        "## Limits",
        table(["Service", "Processors", "Memory", "Processes", "Reserved", "Ids on the host"], limits),
        "## Times",
        table(["Service", "A start may take", "Sick after", "Restarts", "A stop may take"], times),
        "## Places",
        table(["Service", "Networks", "Ports", "Data", "Secrets"], places),
        "## Networks",
        table(["Network", "Bridge", "Subnets", "Reaches outside"], networks),
        "## Routes",
        table(["Host name", "Path", "To", "For", "Largest request", "Requests a second of a client"], routes),
    )


def size(amount: int) -> str:
    """A number of bytes in the largest unit that keeps it whole."""
    whole = (f"{amount // unit} {name}" for unit, name in _UNITS if amount and amount % unit == 0)
    return next(whole, f"{amount} B")


def first_id(service: Service) -> int:
    """The host's id that the container sees as 0."""
    return ID_RANGE_BASE + (service.id_range - 1) * ID_RANGE_SIZE


def restarts(service: Service) -> str:
    """The restart policy in words."""
    policy = service.restart
    if policy.condition == "none":
        return "never"
    often = "for ever" if policy.max_attempts is None else f"{policy.max_attempts} times"
    return f"{often}, {seconds(policy.delay)} apart"


def mounted(service: Service) -> list[str]:
    """The named volumes of a service."""
    return [mount.source for mount in service.mounts if mount.kind == "volume"]


def place(made: Catalogue, source: str) -> str:
    """Where a volume keeps its files."""
    volume = made.volumes[source]
    return f"`{volume.directory}/`" if volume.directory else f"Podman volume `{volume.name}`"
