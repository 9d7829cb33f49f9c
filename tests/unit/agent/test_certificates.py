"""The proxy's certificate: what is decided, and what stays served when something fails."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from memoryark_agent import certificates, pairs
from memoryark_agent.__main__ import main, read_site
from memoryark_agent.certificates import Look, Plan, Site, check, decide, prepare, renew
from memoryark_agent.commands import run
from memoryark_agent.errors import AgentError
from memoryark_agent.issuers import Acme, Own, problems
from memoryark_agent.pairs import Certificate
from memoryark_agent.proxy import Proxy
from memoryark_agent.store import Store
from memoryark_lab.authority import Authority, ensure_authority

NOW = datetime.now(UTC).replace(microsecond=0)
NAMES = ("photos.ark.test", "line.ark.test")
DIRECTORY = "https://acme.test/dir"
NUMBERS = itertools.count()
PLACE = tempfile.TemporaryDirectory()


@cache
def authority() -> Authority:
    """One that signs for all tests; what it signed can be older than it is."""
    return ensure_authority(Path(PLACE.name), now=NOW - timedelta(days=365))


@dataclass(frozen=True)
class FakeProxy(Proxy):
    """Serves what it has read last; ``broken`` is what its next reloads say."""

    test: Sequence[str] = ()
    reload: Sequence[str] = ()
    port: int = 0
    patience: float = 0.0
    store: Path = Path()
    shown: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def take(self, certificate: Certificate, names: Sequence[str]) -> None:
        if self.broken:
            raise AgentError(self.broken.pop())
        self.shown.append(pairs.read(self.store / "current").fingerprint)
        assert self.differences(certificate, names) == []

    def differences(self, certificate: Certificate, names: Sequence[str]) -> list[str]:
        return [] if self.shown[-1:] == [certificate.fingerprint] else ["another certificate"]


@dataclass(frozen=True)
class FakeServer(Acme):
    """Issues what ``answer`` puts into its directory."""

    answer: Callable[[Path, Sequence[str]], None] = lambda _pair, _names: None

    def issue(self, names: Sequence[str]) -> None:
        self.pair.mkdir(parents=True, exist_ok=True)
        self.answer(self.pair, names)


def put(pair: Path, names: Sequence[str], left: timedelta = timedelta(days=90)) -> None:
    """Put a certificate with a life of 90 days into a directory; ``left`` is what is left of it."""
    life = timedelta(days=90)
    made = authority().ensure_certificate(f"edge-{next(NUMBERS)}", names, life=life, now=NOW - life + left)
    pair.mkdir(exist_ok=True)
    shutil.copy(made.certificate, pair / pairs.CHAIN)
    shutil.copy(made.key, pair / pairs.KEY)


def refuse(_pair: Path, _names: Sequence[str]) -> None:
    raise AgentError("the server says no")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A host that issues good certificates, with a proxy that reads them."""
    for name in ("tls", "state"):
        (tmp_path / name).mkdir()
    issuer = FakeServer(
        "http-01", DIRECTORY, "a@ark.test", tmp_path / "state", tmp_path / "webroot", answer=put
    )
    proxy = FakeProxy(store=tmp_path / "tls")
    store = Store(tmp_path / "tls", os.getgid())
    return Site(NAMES, issuer, store, proxy, tmp_path / "state", tmp_path / "certificates.prom")


def issues(site: Site, answer: Callable[[Path, Sequence[str]], None]) -> Site:
    """The same host with a server that gives another answer."""
    assert isinstance(site.issuer, FakeServer)
    return replace(site, issuer=replace(site.issuer, answer=answer))


def fake(site: Site) -> FakeProxy:
    assert isinstance(site.proxy, FakeProxy)
    return site.proxy


def metric(site: Site, name: str) -> float:
    lines = dict(
        line.rsplit(" ", 1) for line in site.metrics.read_text().splitlines() if not line.startswith("#")
    )
    return float(lines[f"memoryark_certificate_{name}"])


def certificate(
    life: timedelta, left: timedelta, names: Sequence[str] = NAMES, key: str = "a"
) -> Certificate:
    return Certificate(frozenset(names), NOW + left - life, NOW + left, "01", key)


@pytest.mark.parametrize(
    ("life", "left", "due"),
    [
        (90, 31, False),
        (90, 30, True),
        (45, 15.01, False),
        (45, 15, True),
        (6.6, 3.31, False),
        (6.6, 3.3, True),
        (10, 3.4, False),
    ],
)
def test_it_is_renewed_by_what_is_left_of_its_life(life: float, left: float, due: bool) -> None:
    one = certificate(timedelta(days=life), timedelta(days=left))
    assert (one.due <= NOW) is due
    assert decide(Look("acme", one, one), NAMES, NOW).changed is due


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (NAMES, []),
        (("*.ark.test",), []),
        (("ark.test", "line.ark.test"), ["photos.ark.test"]),
        (("*.test",), list(NAMES)),
        ((), list(NAMES)),
    ],
)
def test_names_that_a_certificate_is_not_for(names: Sequence[str], missing: list[str]) -> None:
    assert certificate(timedelta(90), timedelta(80), names).missing(NAMES) == missing


GOOD = certificate(timedelta(90), timedelta(80))
OTHER = certificate(timedelta(90), timedelta(80), key="b")


@pytest.mark.parametrize(
    ("look", "plan"),
    [
        (Look("acme", GOOD, GOOD), Plan()),
        (Look(), Plan("there is none yet")),
        (Look("placeholder", OTHER, None), Plan("there is none yet")),
        (Look("placeholder", OTHER, GOOD), Plan("", "the proxy has another certificate")),
        (Look("", None, GOOD), Plan("", "the proxy has another certificate")),
        (Look("acme", GOOD, GOOD, wrong=["line: another"]), Plan("", "line: another")),
    ],
)
def test_what_is_to_be_done(look: Look, plan: Plan) -> None:
    assert decide(look, NAMES, NOW) == plan


def test_a_certificate_is_asked_for_when_names_are_new_or_it_is_wanted() -> None:
    assert (
        decide(Look("acme", GOOD, GOOD), [*NAMES, "new.ark.test"], NOW).issue == "it is not for new.ark.test"
    )
    assert decide(Look("acme", GOOD, GOOD), NAMES, NOW, force=True).issue == "it is asked for"


def test_a_new_host_starts_with_a_placeholder_and_then_serves_the_real_one(site: Site) -> None:
    assert prepare(site)
    assert not prepare(site), "a second time there is nothing to do"
    assert site.store.origin() == "placeholder"
    assert site.store.read().missing(NAMES) == []
    assert check(site, NOW)[0] == "it is from placeholder, and has to be from acme.test_dir"
    assert metric(site, "placeholder") == 1
    assert renew(site, NOW) == Plan("there is none yet", "the proxy has another certificate")
    assert site.store.origin() == "acme.test_dir"
    assert check(site, NOW) == []
    assert renew(site, NOW) == Plan(), "a second time there is nothing to do"
    assert len(fake(site).shown) == 1
    assert (metric(site, "placeholder"), metric(site, "served")) == (0, 1)
    assert metric(site, "last_success_timestamp_seconds") == NOW.timestamp()


def test_the_key_is_for_root_and_the_group_only(site: Site, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        renew(site, NOW)
    finally:
        os.umask(previous)
    modes = {
        path.name: path.stat().st_mode & 0o777
        for path in (tmp_path / "tls").rglob("*")
        if not path.is_symlink()
    }
    assert {modes[pairs.KEY], modes[pairs.CHAIN]} == {0o640}
    assert modes[site.store.current] == modes["versions"] == 0o750


def test_a_certificate_that_is_kept_is_served_again_without_a_placeholder(site: Site) -> None:
    put_first(site)
    assert prepare(site)
    assert site.store.origin() == "acme.test_dir"


def put_first(site: Site, left: timedelta = timedelta(days=90), names: Sequence[str] = NAMES) -> None:
    """Let the issuer have a certificate already."""
    site.issuer.pair.mkdir(parents=True, exist_ok=True)
    put(site.issuer.pair, names, left)


@pytest.mark.parametrize("left", [timedelta(days=29), timedelta(days=-1)], ids=["due", "expired"])
def test_when_none_can_be_had_the_old_one_stays_and_the_failure_is_told(site: Site, left: timedelta) -> None:
    renew(site, NOW)
    before = site.store.current
    put_first(site, left)
    failing = issues(site, refuse)
    with pytest.raises(AgentError, match=r"expire[sd] on .*, but: the server says no"):
        renew(failing, NOW + timedelta(hours=1))
    # One that is due is newer than what is served in this test; an expired one never comes in.
    assert (site.store.current == before) is (left < timedelta(0))
    assert metric(site, "last_success_timestamp_seconds") == NOW.timestamp()
    assert metric(site, "last_attempt_timestamp_seconds") == NOW.timestamp() + 3600
    assert any("the server says no" in line for line in certificates.status(site, NOW))
    assert renew(site, NOW + timedelta(hours=2)).issue, "the next attempt mends it"
    assert not any("error" in line for line in certificates.status(site, NOW))


@pytest.mark.parametrize("before", [True, False])
def test_one_that_was_issued_to_another_place_is_no_success(site: Site, before: bool) -> None:
    if before:
        renew(site, NOW)
    elsewhere = issues(site, lambda _pair, _names: None)
    with pytest.raises(AgentError, match="certbot put none into"):
        renew(elsewhere, NOW, force=True)
    assert bool(site.store.current) is before


@pytest.mark.parametrize("broken", ["nginx -t says no", "the reload fails", "the old one is still served"])
def test_when_the_proxy_does_not_take_it_the_one_before_comes_back(site: Site, broken: str) -> None:
    renew(site, NOW)
    before = site.store.current
    fake(site).broken.append(broken)
    with pytest.raises(AgentError, match=broken):
        renew(site, NOW, force=True)
    assert site.store.current == before
    assert fake(site).shown[-1] == site.store.read().fingerprint
    assert metric(site, "served") == 1
    # The next attempt takes the certificate that was issued, and asks for no other.
    assert renew(issues(site, refuse), NOW) == Plan("", "the proxy has another certificate")
    assert site.store.current != before


def test_a_proxy_that_serves_something_else_is_told_again(site: Site) -> None:
    renew(site, NOW)
    fake(site).shown.append("what it had before")
    assert check(site, NOW) == ["another certificate"]
    assert metric(site, "served") == 0
    assert renew(site, NOW) == Plan("", "another certificate")
    assert metric(site, "served") == 1


def test_another_server_gives_its_own_certificate(site: Site) -> None:
    renew(site, NOW)
    assert isinstance(site.issuer, FakeServer)
    moved = replace(site, issuer=replace(site.issuer, directory="https://other.test/dir"))
    assert check(moved, NOW) == ["it is from acme.test_dir, and has to be from other.test_dir"]
    assert renew(moved, NOW).issue == "there is none yet"
    assert site.store.origin() == "other.test_dir"


def test_deploy_asks_nobody(site: Site) -> None:
    put_first(site, timedelta(days=3))
    assert renew(issues(site, refuse), NOW, issue=False) == Plan("", "the proxy has another certificate")


def test_a_dry_run_changes_nothing(site: Site, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert prepare(site, dry=True)
    assert renew(site, NOW, dry=True) == Plan("there is none yet")
    assert sorted(tmp_path.rglob("*")) == before


def test_only_the_present_version_is_kept(site: Site, tmp_path: Path) -> None:
    renew(site, NOW)
    (tmp_path / "tls" / ".new-x" / "half").mkdir(parents=True)
    renew(site, NOW, force=True)
    assert {path.name for path in (tmp_path / "tls").iterdir()} == {"current", "versions"}
    assert [path.name for path in (tmp_path / "tls" / "versions").iterdir()] == [site.store.current]


@pytest.fixture
def own(site: Site, tmp_path: Path) -> Site:
    """The same host with a certificate of the operator's own."""
    put(tmp_path / "own", NAMES)
    return replace(site, issuer=Own(tmp_path / "own"))


def test_an_own_certificate_is_served_and_changed(own: Site) -> None:
    assert prepare(own)
    assert own.store.origin() == "own", "it needs no placeholder"
    assert renew(own, NOW).serve
    assert renew(own, NOW) == Plan()
    put(own.issuer.pair, NAMES, timedelta(days=20))
    assert renew(own, NOW) == Plan("", "the proxy has another certificate"), "nobody is asked for a new one"
    assert check(own, NOW) == []


@pytest.mark.parametrize(
    ("names", "left", "match"),
    [
        (("photos.ark.test",), 60, "it is not for line.ark.test"),
        (NAMES, -1, "it expired on"),
    ],
)
def test_an_own_certificate_that_cannot_be_used_is_not_served(
    own: Site, names: Sequence[str], left: int, match: str
) -> None:
    renew(own, NOW)
    before = own.store.current
    put(own.issuer.pair, names, timedelta(days=left))
    with pytest.raises(AgentError, match=match):
        renew(own, NOW)
    assert own.store.current == before


def test_a_key_of_another_certificate_is_refused(own: Site, tmp_path: Path) -> None:
    put(tmp_path / "second", NAMES)
    shutil.copy(tmp_path / "second" / pairs.KEY, own.issuer.pair / pairs.KEY)
    with pytest.raises(AgentError, match="do not belong together"):
        renew(own, NOW)


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n", "\xe9"])
def test_what_is_no_certificate_is_refused(own: Site, text: str) -> None:
    (own.issuer.pair / pairs.CHAIN).write_text(text)
    with pytest.raises(AgentError, match=r"belong together|can be read"):
        pairs.read(own.issuer.pair)


def test_certbot_is_told_everything(tmp_path: Path) -> None:
    issuer = Acme("http-01", DIRECTORY, "a@ark.test", tmp_path, tmp_path / "web", profile="shortlived")
    command = issuer.command(NAMES)
    for word in (
        "--force-renewal",
        f"--server={DIRECTORY}",
        f"--webroot-path={tmp_path}/web",
        "--required-profile=shortlived",
        "--domain=line.ark.test",
        "--cert-name=acme.test_dir",
    ):
        assert word in command
    dns = replace(issuer, method="dns-rfc2136", credentials="/etc/dns.ini", profile="").command(NAMES)
    assert {"--authenticator=dns-rfc2136", "--dns-rfc2136-credentials=/etc/dns.ini"} < set(dns)
    assert not [word for word in dns if "webroot" in word or "profile" in word]


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ("", []),
        (
            """{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too \\"many\\" of them"}""",
            ['rateLimited: too "many" of them'],
        ),
        (
            """
            "error": {
              "type": "urn:ietf:params:acme:error:dns",
              "detail": "no address for line.ark.test",
              "status": 400
            },
            "type": "urn:ietf:params:acme:error:badNonce", "detail": "JWS has an invalid anti-replay nonce",
            {"type":"urn:ietf:params:acme:error:dns","detail":"no address for line.ark.test"}
            """,
            ["dns: no address for line.ark.test"],
        ),
        ('"type": "urn:ietf:params:acme:error:dns", "detail": "cut o', []),
    ],
)
def test_what_the_server_complained_of(log: str, found: list[str]) -> None:
    assert problems(log) == found


@pytest.mark.parametrize(
    ("command", "timeout", "match"),
    [
        (["sh", "-c", "echo why; exit 3"], 5, "sh failed with exit code 3: why"),
        (["false"], 5, "it said nothing"),
        (["sleep", "5"], 0.05, "did not end within"),
        (["no-such-program"], 5, "cannot be run: No such file"),
    ],
)
def test_a_program_that_fails_says_why(command: list[str], timeout: float, match: str) -> None:
    with pytest.raises(AgentError, match=match):
        run(command, timeout=timeout)


def settings(site: Site, tmp_path: Path, **changes: object) -> Path:
    """A settings file as the role writes it."""
    path = tmp_path / "settings.json"
    proxy = {"test": ["true"], "reload": ["true"], "port": 1, "patience": 0}
    content = {
        "names": list(NAMES),
        "method": "own",
        "own": str(site.issuer.pair),
        "store": str(tmp_path / "tls"),
        "group": os.getgid(),
        "proxy": proxy,
        "state": str(site.state),
        "metrics": str(site.metrics),
    }
    path.write_text(json.dumps(content | changes))
    return path


def test_the_command_line(own: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--settings", str(settings(own, tmp_path)), "certificates"]
    assert main([*options, "prepare", "--dry-run"]) == 0
    assert main([*options, "prepare"]) == 0
    assert main([*options, "prepare"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["changed"] * 2 + [
        "unchanged"
    ]
    # Nothing listens on port 1.
    assert main([*options, "deploy"]) == 1
    assert "refused" in capsys.readouterr().err
    assert main([*options, "check"]) == 1
    assert main([*options, "status"]) == 0
    assert "Last error: the proxy does not serve the certificate" in capsys.readouterr().out


def test_settings_of_an_acme_server(own: Site, tmp_path: Path) -> None:
    acme = {"directory": DIRECTORY, "email": "a@ark.test"}
    path = settings(own, tmp_path, method="http-01", webroot=str(tmp_path), acme=acme)
    issuer = read_site(path).issuer
    assert isinstance(issuer, Acme)
    assert issuer.pair == own.state / "config" / "live" / "acme.test_dir"


@pytest.mark.parametrize("text", ["", "{}", '{"state": "/x", "method": "own"}'])
def test_damaged_settings_are_told(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings.json").write_text(text)
    assert main(["--settings", str(tmp_path / "settings.json"), "certificates", "status"]) == 1
    assert "Run site.yml" in capsys.readouterr().err
