"""Small Compose documents that tests start from."""

from __future__ import annotations

import copy
from typing import Any

from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import Document, Sources
from ansible_collections.memoryark.ops.plugins.plugin_utils.merge import merge

DIGEST = f"@sha256:{'0' * 64}"
SMALLEST: dict[str, Any] = {
    "image": f"registry.test/app{DIGEST}",
    "networks": ["front"],
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "healthcheck": {"test": ["CMD", "true"]},
    "deploy": {"resources": {"limits": {"cpus": "0.5", "memory": "64M"}}},
    "x-memoryark": {"id_range": 1},
}


def smallest(**keys: Any) -> dict[str, Any]:
    """The smallest service that is accepted, with ``keys`` merged in."""
    merged: dict[str, Any] = merge(copy.deepcopy(SMALLEST), keys)
    return merged


def sources(services: dict[str, Any], **settings: Any) -> Sources:
    """A catalogue of ``services`` with one network and one volume."""
    surroundings = {
        "networks": {
            "front": {
                "name": "front-net",
                "enable_ipv6": True,
                "ipam": {"config": [{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]},
            },
            "back": {"name": "back-net", "internal": True, "ipam": {"config": [{"subnet": "10.2.0.0/24"}]}},
        },
        "volumes": {"photos": {"x-memoryark": {"directory": "photos"}}, "queue": None},
    }
    documents = [Document("stack/networks.yml", surroundings)]
    documents += [
        Document(f"stack/{name}/compose.yml", {"services": {name: raw}}) for name, raw in services.items()
    ]
    return Sources(documents=documents, **settings)
