"""Names, records and descriptions of hosts, without any host."""

import argparse
import base64
from pathlib import Path

import pytest
from memoryark_lab import base_image, cli, files, guest, host_commands, hosts, ssh
from memoryark_lab.errors import LabError


@pytest.mark.parametrize("name", ["a", "web-1", "x" * 32])
def test_good_names(name: str) -> None:
    assert hosts.check_name(name) == name


@pytest.mark.parametrize("name", ["", "Web", "1a", "a_b", "a/b", "../a", "a-", "web-outside", "x" * 33, "-a"])
def test_bad_names_are_refused_with_an_example(name: str) -> None:
    with pytest.raises(LabError, match="web-1"):
        hosts.check_name(name)


@pytest.mark.parametrize("tag", ["", "1", "a b", "a,b", "A"])
def test_bad_tags_are_refused(tag: str) -> None:
    with pytest.raises(LabError):
        hosts.check_tag(tag)


@pytest.mark.parametrize(("taken", "free"), [(set(), 0), ({0, 1}, 2), ({1, 2}, 0), ({0, 2}, 1)])
def test_a_number_that_became_free_is_given_out_again(taken: set[int], free: int) -> None:
    assert hosts.lowest_free(taken) == free


def test_a_full_network_is_said() -> None:
    with pytest.raises(LabError, match="lab down"):
        hosts.lowest_free(set(range(200)))


def test_the_end_of_a_console_is_readable() -> None:
    raw = b"one\r\n\x1b[0;32m  OK  \x1b[0m two\r\n\r\n\xffthree\n"
    assert hosts.console_tail(raw, lines=2) == "  |   OK   two\n  | \ufffdthree"


def test_files_of_the_first_boot_survive_any_content() -> None:
    line = guest.tmpfiles({"/etc/x": ("0600", "a b\n%c\\n")})
    kind, path, mode, user, group, age, content = line.split()
    assert (kind, path, mode, user, group, age) == ("f~", "/etc/x", "0600", "root", "root", "-")
    assert base64.b64decode(content) == b"a b\n%c\\n"


def test_a_private_host_key_is_readable_by_root_alone() -> None:
    made = guest.first_boot_files("web", {"ssh_host_a_key": "k", "ssh_host_a_key.pub": "p"})
    assert made["/etc/ssh/ssh_host_a_key"] == ("0600", "k")
    assert made["/etc/ssh/ssh_host_a_key.pub"] == ("0644", "p")


def test_only_the_card_towards_debian_has_the_default_route() -> None:
    assert "Gateway=10.0.2.2" in guest.egress_network(0)
    assert "Gateway" not in guest.lab_network(0)
    assert "Address=192.0.2.11/24" in guest.lab_network(1)
    assert "Address=2001:db8:6d61::11/64" in guest.lab_network(1)


ENTRY = ssh.Entry(
    "web", 2222, "192.0.2.10", {"ssh_host_a_key.pub": "ssh-a AAAA root@lab\n", "ssh_host_a_key": "no"}
)


def test_a_host_is_known_by_both_names() -> None:
    config = ssh.render_config([ENTRY], Path("/k e y"), Path("/known"), Path("/run/lab"))
    assert "Host web\n  HostName 127.0.0.1\n  Port 2222\n" in config
    assert "Host web-outside\n  HostName 192.0.2.10\n  Port 22\n" in config
    assert 'IdentityFile "/k e y"' in config
    assert config.count("HostKeyAlias web\n") == 1


def test_known_hosts_hold_public_keys_only() -> None:
    assert ssh.render_known_hosts([ENTRY]) == "web ssh-a AAAA\n"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["ssh: /run/web.ssh [mux]"], True),
        (["ssh: /run/web-outside.ssh [mux]"], False),
        (["ssh", "web"], False),
        ([], False),
    ],
)
def test_a_shared_connection_is_known_by_its_title(argv: list[str], expected: bool) -> None:
    assert ssh.is_master(argv, Path("/run/web.ssh")) is expected


def test_package_lists_may_have_comments() -> None:
    assert base_image.package_list("# x\na b # c\n\n  d\n") == [["a", "b"], ["d"]]


@pytest.mark.parametrize(
    ("installed", "preseeded", "month"),
    [("a c", "b", "2026-01"), ("a", "b c", "2026-01"), ("a", "b", "2026-02")],
)
def test_another_recipe_or_month_makes_another_image(installed: str, preseeded: str, month: str) -> None:
    usual = base_image.recipe_hash("a", "b", "2026-01")
    assert base_image.recipe_hash("a # comment", "b", "2026-01") == usual
    assert base_image.recipe_hash(installed, preseeded, month) != usual


def test_an_ordinary_user_unpacks_in_a_user_namespace() -> None:
    assert base_image.unpack_argv(root=True)[0] == "sh"
    assert base_image.unpack_argv(root=False)[:2] == ["unshare", "--user"]


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    files.write(path, "one")
    files.write(path, b"two", 0o600)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["file"]


def parse(*argv: str) -> argparse.Namespace:
    top = argparse.ArgumentParser()
    host_commands.register(top.add_subparsers(required=True))
    return top.parse_args(argv)


def test_what_follows_the_dashes_belongs_to_the_command() -> None:
    assert parse("outside", "--", "curl", "-s", "--all").command == ["curl", "-s", "--all"]
    assert parse("ssh", "web", "--", "ls", "-l").command == ["ls", "-l"]
    assert parse("ssh", "web").command == []


def test_an_expected_failure_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", "Bad_Name"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lab: 'Bad_Name' cannot be a host's name")
    assert error.count("\n") == 1


def test_the_table_lines_up() -> None:
    row = {
        "name": "a",
        "state": "running",
        "address": "192.0.2.10",
        "address6": "::10",
        "ssh": {"host": "127.0.0.1", "port": 1},
        "snapshots": [],
    }
    lines = host_commands.render_status([row, {**row, "name": "longer", "snapshots": ["x"]}]).splitlines()
    assert lines[1].index("running") == lines[2].index("running") == lines[0].index("STATE")
    assert "lab up" in host_commands.render_status([])
