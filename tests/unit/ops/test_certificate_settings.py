"""What a host is told of its certificate, what is checked before, and what the module makes of the answer."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.memoryark.ops.plugins.module_utils.host import Host, HostError
from ansible_collections.memoryark.ops.plugins.modules.certificates import act
from ansible_collections.memoryark.ops.plugins.plugin_utils.catalogue import load_catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.certificates import (
    PLACE,
    check_certificate,
    first_certificate,
    secrets_of,
    site,
)
from ansible_collections.memoryark.ops.plugins.plugin_utils.configs import render_configs
from ansible_collections.memoryark.ops.plugins.plugin_utils.model import Catalogue
from ansible_collections.memoryark.ops.plugins.plugin_utils.settings import SETTINGS, variables
from memoryark_agent.__main__ import read_site
from memoryark_agent.issuers import Acme, Own
from memoryark_agent.pairs import CHAIN, KEY
from memoryark_agent.store import Store
from memoryark_lab.authority import Authority, ensure_authority
from memoryark_lab.paths import REPO
from role_files import written

NOW = datetime.now(UTC)
NAMES = ["line.ark.test", "photos.ark.test"]
STACK = REPO / "stack"
SERVICES = sorted(file.parent.name for file in STACK.glob("*/compose.yml"))
INVENTORY: dict[str, Any] = {name: setting.default for name, setting in SETTINGS.items()} | {
    "memoryark_domain": NAMES[1],
    "memoryark_line_domain": NAMES[0],
    "memoryark_line_channel_id": "1234567890",
    "memoryark_root_admin_email": "admin@ark.test",
}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """The project's own."""
    return load_catalogue(
        STACK,
        images={name: f"registry.test/{name}@sha256:{'0' * 64}" for name in SERVICES},
        variables=variables(INVENTORY),
        secrets={"internal_api_token", "jwt_secret", "line_channel_access_token", "line_channel_secret"},
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return ensure_authority(tmp_path_factory.mktemp("authority"))


def pair(authority: Authority, name: str, names: list[str], **options: Any) -> dict[str, str]:
    """The secrets of an own certificate."""
    made = authority.ensure_certificate(name, names, **options)
    return {"tls_certificate": made.certificate.read_text(), "tls_key": made.key.read_text()}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, Acme),
        ({"memoryark_certificate": "own"}, Own),
        ({"memoryark_certificate": "dns-rfc2136", "memoryark_acme_profile": "shortlived"}, Acme),
    ],
)
def test_the_program_understands_what_it_is_told(
    catalogue: Catalogue, tmp_path: Path, changes: dict[str, str], kind: type
) -> None:
    told = site(catalogue, INVENTORY | changes, "/srv/ark", NAMES)
    (tmp_path / "settings.json").write_text(json.dumps(told))
    found = read_site(tmp_path / "settings.json")
    assert isinstance(found.issuer, kind)
    assert found.names == NAMES
    assert found.proxy.port == 443
    assert found.proxy.reload == ["systemctl", "reload", "memoryark-nginx-proxy.service"]
    assert found.proxy.test[:3] == ["podman", "exec", "nginx-proxy"]
    assert "nginx -t" in found.proxy.test[-1]


def test_the_proxy_finds_what_the_program_writes(catalogue: Catalogue) -> None:
    told = site(catalogue, INVENTORY, "/srv/ark", NAMES)
    proxy = catalogue.services["nginx-proxy"]
    targets = {mount.source: mount.target for mount in proxy.mounts}
    conf = render_configs(STACK, catalogue, variables(INVENTORY))["nginx-proxy"]["nginx.conf"]
    assert f"ssl_certificate {targets['tls']}/current/fullchain.pem;" in conf
    assert f"ssl_certificate_key {targets['tls']}/current/privkey.pem;" in conf
    assert f"root {targets['acme-challenge']};" in conf
    assert (told["store"], told["webroot"]) == ("/srv/ark/tls", "/srv/ark/acme-challenge")
    assert all(mount.read_only for mount in proxy.mounts)
    # A request for a challenge is not sent to HTTPS, where there may be no certificate yet.
    redirect = conf.index("return 308")
    assert conf.index("/.well-known/acme-challenge/") < redirect
    assert conf.rindex("location / {", 0, redirect) > conf.index("/.well-known/acme-challenge/")


def test_the_account_is_the_administrators_unless_told_otherwise(catalogue: Catalogue) -> None:
    assert site(catalogue, INVENTORY, "/srv", NAMES)["acme"]["email"] == "admin@ark.test"
    other = INVENTORY | {"memoryark_acme_email": "tls@ark.test"}
    assert site(catalogue, other, "/srv", NAMES)["acme"]["email"] == "tls@ark.test"


def test_a_catalogue_without_such_a_proxy_needs_no_certificate(catalogue: Catalogue) -> None:
    assert site(Catalogue({}, {}, {}), INVENTORY, "/srv", NAMES) == {}
    assert secrets_of("") == ()
    assert check_certificate("", {}, NAMES, NOW) == []


def test_a_proxy_starts_with_what_the_program_gives_it(
    catalogue: Catalogue, authority: Authority, tmp_path: Path
) -> None:
    told = site(catalogue, INVENTORY, str(tmp_path), NAMES)
    Path(told["store"]).mkdir(parents=True)
    store = Store(Path(told["store"]), group=os.getgid())
    (path,) = first_certificate(catalogue, str(tmp_path))
    assert not Path(path).exists()
    made = authority.ensure_certificate("first", NAMES)
    directory = tmp_path / "pair"
    directory.mkdir()
    shutil.copy(made.certificate, directory / CHAIN)
    shutil.copy(made.key, directory / KEY)
    store.switch(store.add(directory, "test"))
    assert Path(path).exists()


def test_the_role_writes_where_the_program_reads(catalogue: Catalogue) -> None:
    tasks = yaml.safe_load((REPO / "roles/certificates/tasks/main.yml").read_text())
    told = site(catalogue, INVENTORY | {"memoryark_acme_authority": "x"}, "/srv", NAMES)
    read = {told["acme"]["credentials"], told["acme"]["trust"], f"{PLACE}/settings.json"}
    read |= {f"{told['own']}/fullchain.pem", f"{told['own']}/privkey.pem"}
    assert read == {path for path in written(tasks) if path.startswith(PLACE)}


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("http-01", ()),
        ("dns-ovh", ("acme_dns_credentials",)),
        ("own", ("tls_certificate", "tls_key")),
    ],
)
def test_secrets_that_a_method_needs(method: str, names: tuple[str, ...]) -> None:
    assert secrets_of(method) == names
    found = check_certificate(method, {}, NAMES, NOW)
    assert [problem.where for problem in found] == [f"inventory memoryark_secrets.{name}" for name in names]
    assert all(f"memoryark_certificate is {method}" in problem.what for problem in found)
    if method != "own":
        assert check_certificate(method, dict.fromkeys(names, "x"), NAMES, NOW) == []


def test_a_good_own_certificate(authority: Authority) -> None:
    assert check_certificate("own", pair(authority, "good", NAMES), NAMES, NOW) == []
    assert check_certificate("own", pair(authority, "wild", ["*.ark.test"]), NAMES, NOW) == []


def test_what_is_wrong_with_an_own_certificate(authority: Authority) -> None:
    good = pair(authority, "good", NAMES)
    other = pair(authority, "other", NAMES)
    old = pair(authority, "old", NAMES, life=timedelta(days=9), now=NOW - timedelta(days=10))
    few = pair(authority, "few", NAMES[:1])
    upside_down = authority.certificate.read_text() + good["tls_certificate"]
    pem = "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n"
    cases = [
        (good | {"tls_key": other["tls_key"]}, "is not the key of tls_certificate"),
        (good | {"tls_certificate": upside_down}, "is not the key of tls_certificate, whose first"),
        (good | {"tls_key": "no"}, "cannot be read; it has to be PEM, without passphrase."),
        (good | {"tls_certificate": pem}, "cannot be read; is it complete"),
        (old, f"expired on {NOW - timedelta(days=1):%Y-%m-%d}."),
        (few, "is not for photos.ark.test."),
    ]
    for secrets, what in cases:
        found = check_certificate("own", secrets, NAMES, NOW)
        assert any(what in problem.what for problem in found), what


def test_a_placeholder_is_reported_once(authority: Authority) -> None:
    secrets = pair(authority, "good", NAMES) | {"tls_key": "your-key"}
    assert check_certificate("own", secrets, NAMES, NOW) == []


class Program:
    """The host's program, which answers with ``code`` and ``words``."""

    def __init__(self, code: int, words: str) -> None:
        self.code, self.words = code, words
        self.commands: list[list[str]] = []

    def __call__(self, argv: list[str], **_options: Any) -> tuple[int, str, str]:
        self.commands.append(argv)
        return (0, self.words, "") if self.code == 0 else (self.code, "", self.words)


@pytest.mark.parametrize(
    ("state", "check", "words", "ending"),
    [
        ("prepared", False, "changed: it has one to start with\n", ["prepare"]),
        ("served", False, "unchanged\n", ["renew"]),
        ("served", True, "changed: a new one is issued: there is none yet\n", ["renew", "--dry-run"]),
    ],
)
def test_the_module_tells_what_the_program_did(
    tmp_path: Path, state: str, check: bool, words: str, ending: list[str]
) -> None:
    (tmp_path / "agent").touch()
    program = Program(0, words)
    result = act(Host(program, tmp_path), state, "/agent", check)
    assert result == {"changed": words.startswith("changed"), "said": words.strip()}
    assert program.commands == [["/usr/bin/python3", "-I", "-B", "/agent", "certificates", *ending]]


def test_a_check_run_on_a_new_host_says_that_there_is_something_to_do(tmp_path: Path) -> None:
    program = Program(0, "")
    assert act(Host(program, tmp_path), "served", "/agent", check=True)["changed"] is True
    assert program.commands == []


def test_what_the_program_complains_of_is_handed_on(tmp_path: Path) -> None:
    program = Program(1, "rateLimited: too many certificates")
    with pytest.raises(HostError, match="rateLimited: too many certificates"):
        act(Host(program, tmp_path), "served", "/agent", check=False)
