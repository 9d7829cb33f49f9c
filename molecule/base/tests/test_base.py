"""The host keeps Taiwan's time, and its journal stays and is bounded."""

from __future__ import annotations

from testinfra.host import Host


def test_local_time_is_taiwans(host: Host) -> None:
    assert host.check_output("date +%Z%z") == "CST+0800"


def test_time_is_synchronised_by_a_running_service(host: Host) -> None:
    service = host.service("systemd-timesyncd")
    assert service.is_running
    assert service.is_enabled


def test_the_journal_survives_a_reboot(host: Host) -> None:
    host.check_output("logger memoryark-journal-test && journalctl --sync")
    files = host.check_output("find /var/log/journal -name '*.journal'")
    assert files
    assert "memoryark-journal-test" in host.check_output(
        "journalctl --directory=/var/log/journal --lines=50 --no-pager"
    )


def test_the_journal_is_bounded(host: Host) -> None:
    effective = host.check_output("systemd-analyze cat-config systemd/journald.conf")
    assert "\nSystemMaxUse=2G\n" in effective
    assert "\nMaxRetentionSec=90day\n" in effective


def test_what_is_written_is_on_the_disk_within_seconds(host: Host) -> None:
    assert host.check_output("cat /proc/sys/vm/dirty_expire_centisecs") == "500"
    assert host.check_output("cat /proc/sys/vm/dirty_writeback_centisecs") == "100"
