"""What the firewall dropped is counted for Prometheus, and a firewall that is not there is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from memoryark_agent import firewall
from memoryark_agent.__main__ import main
from memoryark_agent.errors import AgentError

# As nftables 1.1.3 lists them.
LISTED = json.dumps(
    {
        "nftables": [
            {"metainfo": {"version": "1.1.3", "json_schema_version": 1}},
            {"counter": {"family": "inet", "name": "input_dropped", "table": "memoryark", "handle": 1,
                         "packets": 12, "bytes": 480}},
            {"counter": {"family": "inet", "name": "ssh_limited", "table": "memoryark", "handle": 2,
                         "packets": 0, "bytes": 0}},
        ]
    }
)  # fmt: skip
WRITTEN = """\
# HELP memoryark_firewall_loaded 1 if the rules are there.
# TYPE memoryark_firewall_loaded gauge
memoryark_firewall_loaded 1.0
# HELP memoryark_firewall_dropped_packets_total Packets that were dropped, by the rule's counter.
# TYPE memoryark_firewall_dropped_packets_total counter
memoryark_firewall_dropped_packets_total{counter="input_dropped"} 12.0
memoryark_firewall_dropped_packets_total{counter="ssh_limited"} 0.0
# HELP memoryark_firewall_dropped_bytes_total Their bytes.
# TYPE memoryark_firewall_dropped_bytes_total counter
memoryark_firewall_dropped_bytes_total{counter="input_dropped"} 480.0
memoryark_firewall_dropped_bytes_total{counter="ssh_limited"} 0.0
"""


def test_counters_become_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "firewall.prom"
    firewall.publish(path, lambda _command: LISTED)
    assert path.read_text() == WRITTEN


@pytest.mark.parametrize("listed", ["", "{}", '{"nftables": [{"counter": {"name": "x"}}]}', None])
def test_without_a_firewall_it_says_so(tmp_path: Path, listed: str | None) -> None:
    def run(_command: object) -> str:
        if listed is None:
            raise AgentError("nft failed with exit code 1: No such file or directory")
        return listed

    path = tmp_path / "firewall.prom"
    with pytest.raises(AgentError, match="systemctl restart memoryark-firewall"):
        firewall.publish(path, run)
    samples = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert samples == ["memoryark_firewall_loaded 0.0"]


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(firewall, "LIST", ("echo", LISTED))
    path = tmp_path / "firewall.prom"
    assert main(["firewall", "metrics", "--file", str(path)]) == 0
    assert path.read_text() == WRITTEN
    monkeypatch.setattr(firewall, "LIST", ("false",))
    assert main(["firewall", "metrics", "--file", str(path)]) == 1
    assert "cannot be read" in capsys.readouterr().err
