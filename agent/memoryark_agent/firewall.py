"""What the firewall dropped, as metrics. A host whose firewall is not there is told as well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from memoryark_agent import commands, files, metrics
from memoryark_agent.errors import AgentError

LIST = ("/usr/sbin/nft", "--json", "list", "counters", "table", "inet", "memoryark")
METRICS = {
    "memoryark_firewall_loaded": "1 if the rules are there.",
    "memoryark_firewall_dropped_packets_total": "Packets that were dropped, by the rule's counter.",
    "memoryark_firewall_dropped_bytes_total": "Their bytes.",
}

Values = dict[str, float | dict[str, float]]


def measured(listed: str) -> Values:
    """Return the metrics' values from what ``nft`` lists as JSON; raises AgentError for anything else."""
    try:
        counters = [entry["counter"] for entry in json.loads(listed)["nftables"] if "counter" in entry]
        packets, octets = (
            {f'counter="{one["name"]}"': float(one[what]) for one in counters}
            for what in ("packets", "bytes")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise AgentError(f"nft lists its counters in a way that is not known: {error!r}") from error
    return {
        "memoryark_firewall_loaded": 1.0,
        "memoryark_firewall_dropped_packets_total": packets,
        "memoryark_firewall_dropped_bytes_total": octets,
    }


def publish(path: Path, run: Callable[..., str] = commands.run) -> None:
    """Write the metrics to a file; raises AgentError without a firewall, after they say so."""
    values: Values = {"memoryark_firewall_loaded": 0.0}
    try:
        values = measured(run(LIST))
    except AgentError as error:
        raise AgentError(
            f"the firewall cannot be read; if its rules are gone, `systemctl restart memoryark-firewall` "
            f"loads them: {error}"
        ) from error
    finally:
        files.make_directory(path.parent)
        files.write(path, metrics.render(METRICS, values).encode())
