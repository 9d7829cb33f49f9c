"""Bad input: each case is one mistake and the one message that it must get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import build_catalogue, read_stack
from ansible_collections.memoryark.ops.plugins.plugin_utils.checks import CycleError, start_levels
from ansible_collections.memoryark.ops.plugins.plugin_utils.problems import ProblemsError
from compose_samples import DIGEST, smallest, sources


def problems(services: dict[str, Any], **settings: Any) -> list[str]:
    try:
        build_catalogue(sources(services, **settings))
    except ProblemsError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_the_smallest_service_is_accepted() -> None:
    assert problems({"app": smallest()}) == []


APP = "stack/app/compose.yml: services.app"


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"netwoks": ["front"]}, APP, "'netwoks' is not supported here. Did you mean 'networks'?"),
        ({"privileged": True}, APP, "'privileged' is not supported here."),
        ({"deploy": {"resources": {"limits": {"memory": "512X"}}}}, f"{APP}.deploy.resources.limits.memory", "'512X' is not a size; write"),
        ({"deploy": {"resources": {"limits": {"cpus": "many"}}}}, f"{APP}.deploy.resources.limits.cpus", "'many' is not a number of processors"),
        ({"deploy": {"restart_policy": {"delay": "5"}}}, f"{APP}.deploy.restart_policy.delay", "'5' is not a duration"),
        ({"deploy": {"restart_policy": {"condition": "sometimes"}}}, f"{APP}.deploy.restart_policy.condition", '"sometimes" is not none, on-failure or any'),
        ({"networks": ["fronted"]}, f"{APP}.networks", "there is no network 'fronted'. Did you mean 'front'?"),
        ({"networks": {"front": {"alias": ["x"]}}}, f"{APP}.networks.front", "'alias' is not supported here. Did you mean 'aliases'?"),
        ({"depends_on": ["apps"]}, f"{APP}.depends_on", "there is no service 'apps'. Did you mean 'app'?"),
        ({"volumes": ["photo:/p"]}, f"{APP}.volumes", "there is no volume 'photo'. Did you mean 'photos'?"),
        ({"volumes": ["/etc:/p"]}, f"{APP}.volumes", "'/etc' cannot be mounted"),
        ({"volumes": ["./app/config:/p"]}, f"{APP}.volumes", "'./app/config' cannot be mounted"),
        ({"secrets": ["key"]}, f"{APP}.secrets", "secret 'key' has no value; set memoryark_secrets.key"),
        ({"x-memoryark": {"secret_environment": {"KEY": "key"}}}, f"{APP}.secrets", "secret 'key' has no value"),
        ({"image": "registry.test/app"}, f"{APP}.image", "'registry.test/app' has neither digest nor tag"),
        ({"image": "registry.test/app@sha256:12"}, f"{APP}.image", "has neither digest nor tag"),
        ({"image": "library/app:1"}, f"{APP}.image", "has neither digest nor tag"),
        ({"image": "localhost/memoryark/app:0123456789abcdef"}, f"{APP}.image", "has neither digest nor tag"),
        ({"image": "build"}, f"{APP}.image", "'build' has neither digest nor tag"),
        ({"read_only": False}, f"{APP}.read_only", "must be true"),
        ({"cap_drop": ["CHOWN"]}, f"{APP}.cap_drop", "must be [ALL]"),
        ({"deploy": {"resources": {"reservations": {"memory": "1g"}}}}, f"{APP}.deploy.resources.reservations.memory", "is above the limit"),
        ({"deploy": {"resources": {"reservations": {"cpus": "4"}}}}, f"{APP}.deploy.resources.reservations.cpus", "is above the limit"),
        ({"environment": ["HOME"]}, f"{APP}.environment.HOME", "the value is missing"),
        ({"environment": {"X": "$NOPE"}}, f"{APP}.environment.X", "variable NOPE is not set"),
        ({"ports": ["eighty:80"]}, f"{APP}.ports[0]", '"eighty:80" is not [ADDRESS:]PUBLISHED:TARGET'),
        ({"secrets": [{"source": "x", "mode": "0400"}]}, f"{APP}.secrets[0].mode", '"0400" is not an octal file mode without quotes'),
        ({"healthcheck": {"retries": 0}}, f"{APP}.healthcheck.retries", "0 is not a number above 0"),
    ],
)  # fmt: skip
def test_one_mistake_one_message(change: dict[str, Any], where: str, what: str) -> None:
    found = problems({"app": smallest(**change)})
    assert len(found) == 1, found
    assert found[0].startswith(f"{where}: ")
    assert what in found[0]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("image", "set memoryark_images.app"),
        ("deploy.resources.limits.cpus", "the limit is missing"),
        ("deploy.resources.limits.memory", "the limit is missing"),
        ("healthcheck.test", "the health check is missing"),
        ("x-memoryark.id_range", "the range is missing"),
    ],
)
def test_what_every_service_must_say(path: str, what: str) -> None:
    raw = smallest()
    *parents, last = path.split(".")
    place: Any = raw
    for key in parents:
        place = place[key]
    del place[last]
    found = problems({"app": raw})
    assert len(found) == 1, found
    assert found[0].startswith(f"{APP}.{path}: ")
    assert what in found[0]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"ports": ["80:1"]}, "host port '80/tcp' is claimed by a and b"),
        ({"container_name": "same"}, "container name 'same' is claimed by a and b"),
        ({"networks": {"front": {"ipv4_address": "10.1.0.9"}}}, "address '10.1.0.9' is claimed by a and b"),
        (
            {"x-memoryark": {"routes": [{"host": "h.test", "path": "/", "port": 1}]}},
            "route 'h.test /' is claimed by a and b",
        ),
    ],
)
def test_what_only_one_service_may_have(change: dict[str, Any], what: str) -> None:
    second = smallest(**change)
    second["x-memoryark"]["id_range"] = 2
    found = problems({"a": smallest(**change), "b": second})
    assert len(found) == 1, found
    assert what in found[0]


@pytest.mark.parametrize(
    ("ports", "claims"),
    [
        (["192.0.2.1:53:53/udp", "192.0.2.2:53:53/udp", "[2001:db8::1]:53:53/udp"], []),
        (["192.0.2.1:53:53/udp", "192.0.2.1:53:53/tcp"], []),
        (["192.0.2.1:53:53", "192.0.2.1:53:54"], ["host port '53/tcp of 192.0.2.1' is claimed by app twice"]),
        (["192.0.2.1:53:53", "53:54"], ["host port '53/tcp' is claimed by app twice"]),
        (["0.0.0.0:53:53", "127.0.0.1:53:53"], ["host port '53/tcp' is claimed by app twice"]),
    ],
)
def test_a_port_is_published_once_at_each_address(ports: list[str], claims: list[str]) -> None:
    found = problems({"app": smallest(ports=ports)})
    assert [problem.partition("ports: ")[2] for problem in found] == [f"{claim}." for claim in claims]


@pytest.mark.parametrize("name", ["networks", "memoryark-recovery"])
def test_a_unit_of_the_project_is_no_service(name: str) -> None:
    (found,) = problems({name: smallest()})
    assert f"services.{name}: the project has a unit" in found


def test_id_ranges_are_not_shared() -> None:
    found = problems({"a": smallest(), "b": smallest()})
    assert found == [
        "stack/b/compose.yml: services.b.x-memoryark.id_range: id range '1' is claimed by a and b."
    ]


def test_a_cycle_is_named() -> None:
    names = ["a", "b", "c"]
    services = {
        name: smallest(depends_on=[names[(index + 1) % 3]], **{"x-memoryark": {"id_range": index + 1}})
        for index, name in enumerate(names)
    }
    found = problems(services)
    assert len(found) == 1, found
    assert "a → b → c → a" in found[0]


def test_all_problems_come_at_once_and_name_where_they_are_from() -> None:
    found = problems(
        {"app": smallest(networks=["nowhere"])},
        override={"services": {"app": {"deploy": {"resources": {"reservations": {"memory": "9g"}}}}}},
        images={"app": "registry.test/app"},
    )
    assert [line.split(": ")[0] for line in found] == [
        "inventory memoryark_compose",
        "inventory memoryark_images.app",
        "stack/app/compose.yml",
    ]


def test_an_image_for_no_service() -> None:
    found = problems({"app": smallest()}, images={"ap": f"registry.test/x{DIGEST}"})
    assert found == ["inventory memoryark_images.ap: there is no such service. Did you mean 'app'?"]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "compose.yml").write_text("services: [", encoding="utf-8")
    with pytest.raises(ProblemsError, match=r"app/compose\.yml: cannot be read"):
        read_stack(tmp_path)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"there is no <service>/compose\.yml"):
        read_stack(tmp_path)


@pytest.mark.parametrize("tree", [None, [], "text", {"services": []}, {"services": {"app": None}}])
def test_documents_of_a_wrong_shape(tree: Any) -> None:
    found = sources({"app": smallest()})
    found.documents.append(type(found.documents[0])("stack/odd/compose.yml", tree))
    with pytest.raises(ProblemsError, match=r"stack/odd/compose\.yml"):
        build_catalogue(found)


@pytest.mark.parametrize(
    ("dependencies", "levels"),
    [
        ({}, []),
        ({"b": [], "a": []}, [["a", "b"]]),
        ({"a": ["b"], "b": ["c"], "c": []}, [["c"], ["b"], ["a"]]),
        ({"a": ["x"]}, [["a"]]),
    ],
)
def test_start_levels(dependencies: dict[str, list[str]], levels: list[list[str]]) -> None:
    assert start_levels(dependencies) == levels


def test_a_service_that_waits_for_itself() -> None:
    with pytest.raises(CycleError, match=r"a → a"):
        start_levels({"a": ["a"]})


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"healthcheck": {"test": []}}, "healthcheck.test", "[CMD, program, …] or [CMD-SHELL, text]"),
        ({"healthcheck": {"test": ["NONE"]}}, "healthcheck.test", "a deployment waits for it"),
        ({"healthcheck": {"test": " "}}, "healthcheck.test", "has to be a text for a shell"),
        ({"healthcheck": {"test": ["CMD"]}}, "healthcheck.test", "has to be"),
        ({"healthcheck": {"test": ["CMD-SHELL", ""]}}, "healthcheck.test", "has to be"),
        ({"healthcheck": {"test": ["CMD-SHELL", "a", "b"]}}, "healthcheck.test", "has to be"),
        ({"healthcheck": {"test": ["wget", "-q"]}}, "healthcheck.test", "has to be"),
        ({"command": "echo 'x"}, "command", "has a quote that does not end"),
        ({"entrypoint": []}, "entrypoint", "is empty"),
        ({"sysctls": {"net.core.somaxconn": None}}, "sysctls.net.core.somaxconn", "the value is missing"),
        ({"build": {"context": "app", "args": ["VERSION"]}}, "build.args.VERSION", "the value is missing"),
        ({"ports": ["99999:80"]}, "ports", "there is no port 99999"),
        ({"ports": ["80:0"]}, "ports", "there is no port 0"),
        ({"ports": [{"target": 80, "published": 80, "host_ip": "localhost"}]}, "ports", "'localhost' is not an address"),
        ({"ports": ["1.2.3:80:80"]}, "ports", "'1.2.3' is not an address"),
        ({"networks": {"front": {"ipv4_address": "10.9.0.9"}}}, "networks", "10.9.0.9 is in no subnet of network front"),
        ({"networks": {"front": {"ipv4_address": "fd00::9"}}}, "networks", "'fd00::9' is not an IPv4 address"),
        ({"deploy": {"resources": {"limits": {"memory": "0"}}}}, "deploy.resources.limits.memory", "is 0, which is no limit"),
        ({"x-memoryark": {"routes": [{"host": "h.test", "path": "/", "port": 1, "body_size": 0}]}}, "x-memoryark.routes", "body_size is 0"),
        ({"volumes": ["photos:/app/My Photos"]}, "volumes", "'/app/My Photos' has a character that no place"),
        ({"cap_add": ["CHOWN\nPodmanArgs=--privileged"]}, "cap_add[0]", "has a character that no text may have here: '\\n'"),
        ({"dns_search": ["lan\rMount=x"]}, "dns_search[0]", "has a character that no text may have here: '\\r'"),
        ({"container_name": "app\n"}, "container_name", "has a character"),
        ({"labels": {"a\nb": "c"}}, "labels.(key)", "has a character"),
        ({"environment": {"X": "a\0b"}}, "environment.X", "has a character"),
        ({"environment": {"X": "/x/{config}/y"}}, "environment.X", "has '{config}', by which the host finds"),
        ({"labels": {"a": "{secret:jwt_secret}"}}, "labels.a", "has '{secret:', by which"),
        ({"x-memoryark": {"secret_environment": {"A=b": "key"}}}, "x-memoryark.secret_environment", ""),
        ({"secrets": [{"source": "key", "target": "x,uid=1000"}]}, "secrets[0].target", "is not a file name"),
    ],
)  # fmt: skip
def test_what_would_be_silently_wrong_on_the_host(change: dict[str, Any], where: str, what: str) -> None:
    service = smallest(**{key: value for key, value in change.items() if key != "entrypoint"})
    service |= {key: value for key, value in change.items() if key == "entrypoint"}
    found = problems({"app": service}, secrets={"key"})
    assert [one for one in found if one.startswith(f"{APP}.{where}: ") and what in one], found


@pytest.mark.parametrize(
    "change",
    [
        {"environment": {"MODE": "None", "LINES": "a\r\n\tb", "EMPTY": ""}},
        {"labels": ["traefik.enable"]},
        {"command": ["sh", "-c", "echo a\necho b"]},
        {"healthcheck": {"test": "wget -q http://127.0.0.1/"}},
        {"healthcheck": {"test": ["CMD-SHELL", "true"]}},
        {"ports": ["127.0.0.1:65535:1/udp"]},
    ],
)
def test_what_only_looks_wrong(change: dict[str, Any]) -> None:
    assert problems({"app": smallest(**change)}) == []


def network(**keys: Any) -> dict[str, Any]:
    return {"networks": {"front": keys}}


@pytest.mark.parametrize(
    ("override", "found"),
    [
        (network(**{"x-memoryark": {"egress": ["tcp/587"]}}), []),
        (network(ipam={"config": [{"subnet": "10.7.0.0/24"}]}), []),
        (network(ipam={"config": [{"subnet": "10.2.0.0/24"}]}), ["overlaps"]),
        (network(enable_ipv6=False), ["networks.front: write enable_ipv6 and an IPv6 subnet, both or none"]),
        ({"volumes": {"photos": {"x-memoryark": {"synchronous": True}}}}, []),
        (
            {"volumes": {"queue": {"x-memoryark": {"synchronous": True}}}},
            ["volumes.queue.x-memoryark: 'directory' is missing; without x-memoryark Podman itself keeps"],
        ),
        (
            {"networks": {"new": {"internal": True}}},
            [
                "networks.new.ipam.config: is missing; write a list with a subnet",
                "networks.new.name: is missing; it is the name that Podman has",
            ],
        ),
        (
            network(
                ipam={
                    "config": [
                        {"subnet": "10.1.0.0/24", "ip_range": "10.1.0.0/25"},
                        {"subnet": "fd00::/64", "ip_range": "fd00::/65"},
                    ]
                }
            ),
            ["networks.front.ipam.config: has several ip_ranges"],
        ),
    ],
)
def test_an_inventory_changes_a_part_of_a_network_or_volume(
    override: dict[str, Any], found: list[str]
) -> None:
    said = problems({"app": smallest()}, override=override)
    assert len(said) == len(found), said
    for one, words in zip(said, found, strict=True):
        assert words in one


def test_another_subnet_takes_the_place_of_the_first() -> None:
    made = build_catalogue(
        sources({"app": smallest()}, override=network(ipam={"config": [{"subnet": "10.7.0.0/24"}]}))
    )
    assert made.networks["front"].subnets == ("10.7.0.0/24", "fd00::/64")


def test_a_route_that_no_proxy_reaches() -> None:
    proxy = smallest(
        ports=["80:80"],
        volumes=["./proxy/config:/etc/nginx:ro"],
        **{"x-memoryark": {"config": {"reload_signal": "SIGHUP"}}},
    )
    app = smallest(**{"x-memoryark": {"id_range": 2, "routes": [{"host": "h.test", "path": "/", "port": 1}]}})
    assert problems({"proxy": proxy, "app": app}) == []
    app["networks"] = ["back"]
    (found,) = problems({"proxy": proxy, "app": app})
    assert "no request would arrive: proxy is on no network with it" in found


def test_yaml_is_read_as_compose_reads_it(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    file = tmp_path / "app/compose.yml"
    file.write_text("a: off\nb: 12:30\nc: 2026-02-30\nd: true\ne: 0440\nf: 5\ng: ~\nh: 1.5\n")
    (document,) = read_stack(tmp_path)
    assert document.tree == {
        "a": "off", "b": "12:30", "c": "2026-02-30", "d": True, "e": 0o440, "f": 5, "g": None, "h": 1.5
    }  # fmt: skip
    file.write_text("services:\n  app:\n    init: true\n    init: false\n")
    with pytest.raises(ProblemsError, match=r"app/compose.yml: cannot be read: the key 'init' comes twice"):
        read_stack(tmp_path)
