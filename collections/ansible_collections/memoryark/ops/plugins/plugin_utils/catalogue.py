# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the catalogue: one folder per service with a Compose file, overridden by the inventory."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.memoryark.ops.plugins.plugin_utils.checks import (
    check_catalogue,
    check_raw,
    check_raw_network,
    check_raw_volume,
    lookup,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.images import local_images
from ansible_collections.memoryark.ops.plugins.plugin_utils.interpolation import interpolate_tree
from ansible_collections.memoryark.ops.plugins.plugin_utils.merge import merge
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import (
    Catalogue,
    parse_network,
    parse_service,
    parse_volume,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import Problem, ProblemsError, suggestion
from ansible_collections.memoryark.ops.plugins.plugin_utils.schema import check_document

OVERRIDE = "inventory memoryark_compose"
IMAGES = "inventory memoryark_images"


# libyaml, which some builds of PyYAML lack, reads many times faster than PyYAML's own code.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML as Compose does: a key comes once, and ``off``, ``12:30`` and dates are texts.

    PyYAML follows YAML 1.1, where they are a boolean, a number of seconds and a day.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Return a mapping; raises ConstructorError if a key comes twice."""
        seen = set()
        for key in (key for key, _value in node.value if isinstance(key, yaml.ScalarNode)):
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' comes twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_TEXTS = re.compile(r"yes|no|on|off|y|n|[-+0-9_]+(:[0-9_.]+)+|\d{4}-\d\d?-\d\d?.*", re.IGNORECASE)


class _Text:
    """Matches what is a text in YAML 1.2 and was something else in 1.1."""

    match = staticmethod(_TEXTS.fullmatch)


# By the first character of a plain word. The first that matches says what the word is.
_Loader.yaml_implicit_resolvers = {
    first: [("tag:yaml.org,2002:str", _Text), *resolvers]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class Document:
    """One Compose document and the name under which problems in it are reported."""

    source: str
    tree: Any


@dataclass
class Sources:
    """Everything that makes up one catalogue.

    ``stack`` is the folder in which images are built, ``build_date`` that of the packages in them.
    """

    documents: list[Document] = field(default_factory=list)
    override: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Collection[str] = ()
    stack: Path = Path()
    build_date: str = ""


def read_stack(stack: Path) -> list[Document]:
    """Read ``networks.yml``, ``volumes.yml`` and every ``<service>/compose.yml`` below ``stack``.

    Raises ProblemsError for files that are missing or no YAML.
    """
    files = [*sorted(stack.glob("*.yml")), *sorted(stack.glob("*/compose.yml"))]
    if not any(file.name == "compose.yml" for file in files):
        raise ProblemsError([Problem(str(stack), "there is no <service>/compose.yml in this folder.")])
    documents, problems = [], []
    for file in files:
        source = f"{stack.name}/{file.relative_to(stack)}"
        try:
            text = file.read_text(encoding="utf-8")
            documents.append(Document(source, yaml.load(text, Loader=_Loader)))  # noqa: S506 - a safe one
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            problems.append(Problem(source, f"cannot be read: {' '.join(str(error).split())}."))
    if problems:
        raise ProblemsError(problems)
    return documents


def build_catalogue(sources: Sources) -> Catalogue:
    """Interpolate, check and merge ``sources``; raises ProblemsError with every problem at once."""
    problems: list[Problem] = []
    trees: list[Document] = []
    for document in [*sources.documents, Document(OVERRIDE, dict(sources.override))]:
        tree, errors = interpolate_tree(document.tree, sources.variables)
        problems += [Problem(f"{document.source}: {path}", f"{error}.") for path, error in errors]
        found = check_document(tree, document.source)
        failed = {path for path, _error in errors}
        problems += [problem for problem in found if problem.where.rpartition(": ")[2] not in failed]
        trees.append(Document(document.source, tree))
    problems += _check_names(trees[:-1], sources)
    if problems:
        # Later checks would only repeat in other words what is wrong in these documents.
        raise ProblemsError(problems)
    return _assemble(trees, sources)


def _check_names(documents: list[Document], sources: Sources) -> list[Problem]:
    """Each service is defined once, and the inventory overrides only what exists."""
    problems: list[Problem] = []
    owners: dict[str, str] = {}
    for document in documents:
        for name in _section(document.tree, "services"):
            if name in owners:
                problems.append(
                    Problem(f"{document.source}: services.{name}", f"is defined in {owners[name]} already.")
                )
            owners[name] = document.source
    for name in sources.images:
        if name not in owners:
            problems.append(
                Problem(f"{IMAGES}.{name}", f"there is no such service.{suggestion(name, owners)}")
            )
    return problems


def _section(tree: Any, key: str) -> Mapping[str, Any]:
    section = tree.get(key) if isinstance(tree, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _assemble(trees: list[Document], sources: Sources) -> Catalogue:
    merged: Any = {}
    for document in trees:
        merged = merge(merged, document.tree)
    local, problems = local_images(
        sources.stack, _section(merged, "services"), sources.images, sources.build_date, IMAGES
    )
    images = {**sources.images, **local.references}
    merged = merge(merged, {"services": {name: {"image": image} for name, image in images.items()}})
    override = trees[-1].tree
    # The folder that defines a service names it, not the inventory that overrides it.
    owners = {
        name: document.source for document in reversed(trees) for name in _section(document.tree, "services")
    }

    def where(service: str, path: str) -> str:
        full = f"services.{service}.{path}" if service else path
        if path == "image" and service in sources.images:
            return f"{IMAGES}.{service}"
        if lookup(override, full) is not None:
            return f"{OVERRIDE}: {full}"
        return f"{owners.get(service, 'stack')}: {full}"

    services = _section(merged, "services")
    networks, volumes = _section(merged, "networks"), _section(merged, "volumes")
    incomplete = {name: check_raw(name, raw, where) for name, raw in services.items()}
    unknown = [problem for key, raw in networks.items() for problem in check_raw_network(key, raw, where)]
    unknown += [problem for key, raw in volumes.items() for problem in check_raw_volume(key, raw, where)]
    problems += [problem for found in incomplete.values() for problem in found]
    if unknown:
        # Services that use these would only be told that they are not there.
        raise ProblemsError([*problems, *unknown])
    catalogue = Catalogue(
        services={name: parse_service(name, raw) for name, raw in services.items() if not incomplete[name]},
        networks={key: parse_network(key, raw) for key, raw in networks.items()},
        volumes={key: parse_volume(key, raw) for key, raw in volumes.items()},
        images=local,
    )
    # A service that could not be parsed still exists for those that depend on it.
    problems += check_catalogue(catalogue, services, sources.secrets, where)
    if problems:
        raise ProblemsError(problems)
    return catalogue


def load_catalogue(stack: Path, **settings: Any) -> Catalogue:
    """Read and build the catalogue in ``stack``; ``settings`` are the other fields of ``Sources``."""
    return build_catalogue(Sources(documents=read_stack(stack), stack=stack, **settings))
