"""What the benchmark reads out of runs, and what it makes for them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ansible_collections.memoryark.ops.plugins.plugin_utils.merge import merge
from memoryark_lab import load
from memoryark_lab.load import Record

from tests.bench import changes, collection, contest, plan, underload

OUTPUT = """
TASK [Keep the network a] ******************
ok: [demo]

TASK [memoryark.ops.thing : Keep [b]] ******
changed: [demo]

RUNNING HANDLER [Restart c] ****************
changed: [demo]

PLAY RECAP *********************************
demo : ok=3 changed=2 unreachable=0 failed=0
"""


def test_tasks_that_changed_something_are_found() -> None:
    assert contest.changed_tasks(OUTPUT) == ["memoryark.ops.thing : Keep [b]", "Restart c"]
    assert contest.changed_tasks("") == []


def test_only_the_collection_is_taken_out_of_the_package(tmp_path: Path) -> None:
    wheel = tmp_path / "package.whl"
    with zipfile.ZipFile(wheel, "w") as package:
        package.writestr(collection.NAME + "MANIFEST.json", '{"collection_info": {"version": "1.2.3"}}')
        package.writestr("ansible_collections/other/thing/MANIFEST.json", "{}")
    collection.unpack(wheel, tmp_path / "made")
    assert collection.version(tmp_path / "made") == "1.2.3"
    assert not (tmp_path / "made" / "ansible_collections" / "other").exists()


def test_a_made_up_catalogue_is_planned_as_a_restart_of_every_service() -> None:
    growth = plan.measure((3, 12), rounds=1, say=lambda line: None)
    assert set(growth.seconds) == {3, 12}
    assert all(set(steps) == set(plan.STEPS) for steps in growth.seconds.values())


def test_growth_is_what_a_service_takes_more_in_a_larger_catalogue() -> None:
    growth = plan.Growth({10: {"a": 0.5, "b": 0.5}, 200: {"a": 10.0, "b": 30.0}})
    assert growth.total(200) == 40.0
    assert growth.factor == 2.0


def test_a_summary_tells_late_answers_from_failures() -> None:
    records = [Record(0.0, 0.1, 200), Record(0.05, 3.0, 200), Record(0.1, 0.2, 502), Record(0.6, 0.1, 200)]
    found = underload.summary(load.Result(records))
    assert (found["requests"], found["failed"], found["slow"]) == (4, 1, 1)
    assert found["gap"] == 0.5


def test_releases_change_one_thing_each_and_keep_what_was_changed_before() -> None:
    after = merge(merge(underload.OPEN, changes.changed("line-service", 1)), changes.another_route(1))
    assert after["services"]["line-service"]["environment"] == {
        "LINE_WEBHOOK_RATE_LIMIT": "1000000",
        "BENCH_ROUND": "1",
    }
    twice = merge(after, changes.another_route(2))["services"]["memoryark-frontend"]["x-memoryark"]
    assert [route["path"] for route in twice["routes"]] == ["/bench-1/", "/bench-2/"]
