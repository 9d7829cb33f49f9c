from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.merge import merge


@pytest.mark.parametrize(
    ("key", "base", "override", "expected"),
    [
        ("user", "1", "2", "2"),
        ("user", "1", None, "1"),
        ("user", None, "2", "2"),
        ("command", ["a", "b"], ["c"], ["c"]),
        ("entrypoint", "a", ["c"], ["c"]),
        ("test", ["CMD", "a"], ["CMD", "b"], ["CMD", "b"]),
        ("environment", ["A=1", "B=2"], {"B": 3}, {"A": "1", "B": 3}),
        ("environment", {"A": 1}, ["A=2"], {"A": "2"}),
        ("labels", ["a=1"], ["b=2"], {"a": "1", "b": "2"}),
        ("extra_hosts", ["a:1.1.1.1"], {"a": "2.2.2.2"}, {"a": "2.2.2.2"}),
        ("extra_hosts", ["a=::1"], ["b:fd00::1"], {"a": "::1", "b": "fd00::1"}),
        ("networks", ["a"], {"b": {"aliases": ["x"]}}, {"a": None, "b": {"aliases": ["x"]}}),
        ("networks", ["a"], ["b"], {"a": None, "b": None}),
        (
            "depends_on",
            {"a": {"condition": "service_started"}},
            ["b"],
            {"a": {"condition": "service_started"}, "b": None},
        ),
        ("volumes", ["x:/data", "y:/other"], ["z:/data:ro"], ["z:/data:ro", "y:/other"]),
        (
            "volumes",
            ["x:/data"],
            [{"type": "volume", "source": "z", "target": "/data"}],
            [{"type": "volume", "source": "z", "target": "/data"}],
        ),
        ("secrets", ["a"], [{"source": "a", "uid": "5"}], [{"source": "a", "uid": "5"}]),
        ("ports", ["80:80"], ["80:80", "81:81"], ["80:80", "81:81"]),
        ("tmpfs", "/tmp", ["/run"], ["/tmp", "/run"]),
        ("dns", "1.1.1.1", "8.8.8.8", ["1.1.1.1", "8.8.8.8"]),
        ("routes", [{"path": "/"}], [{"path": "/x"}], [{"path": "/"}, {"path": "/x"}]),
        (
            "deploy",
            {"resources": {"limits": {"cpus": "1"}}},
            {"resources": {"limits": {"memory": "1g"}}},
            {"resources": {"limits": {"cpus": "1", "memory": "1g"}}},
        ),
    ],
)
def test_merge(key: str, base: Any, override: Any, expected: Any) -> None:
    assert merge(base, override, key) == expected


def test_keys_below_are_merged_by_their_own_rules() -> None:
    base = {"services": {"a": {"command": "x", "environment": ["A=1"]}}}
    override = {"services": {"a": {"command": "y", "environment": {"B": "2"}}, "b": {}}}
    assert merge(base, override) == {
        "services": {"a": {"command": "y", "environment": {"A": "1", "B": "2"}}, "b": {}}
    }


def test_nothing_given_in_is_changed() -> None:
    base, override = {"volumes": ["a:/a"]}, {"volumes": ["b:/a"]}
    merge(base, override)
    assert (base, override) == ({"volumes": ["a:/a"]}, {"volumes": ["b:/a"]})
