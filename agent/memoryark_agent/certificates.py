"""The certificate of the proxy: a placeholder first, then a real one that is renewed in time.

The proxy always has a certificate that it was seen to serve. A new one is put in its place, the proxy is made
to read it, and it must then be shown to whoever connects; otherwise the one before comes back.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from memoryark_agent import files, metrics, pairs
from memoryark_agent.errors import AgentError
from memoryark_agent.issuers import Acme, Own
from memoryark_agent.pairs import Certificate
from memoryark_agent.proxy import Proxy
from memoryark_agent.store import Store

PLACEHOLDER = "placeholder"
METRICS = {
    "memoryark_certificate_expiry_timestamp_seconds": "When the proxy's certificate expires.",
    "memoryark_certificate_renewal_timestamp_seconds": "From when on it is to be renewed.",
    "memoryark_certificate_placeholder": "1 if it is only a placeholder.",
    "memoryark_certificate_served": "1 if the proxy serves it for all names.",
    "memoryark_certificate_last_attempt_timestamp_seconds": "When it was last tried to have it right.",
    "memoryark_certificate_last_success_timestamp_seconds": "When that last succeeded.",
}


@dataclass(frozen=True)
class State:
    """The last attempt to have the right one served; times are seconds since the epoch, 0 for never."""

    attempt: float = 0.0
    success: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Site:
    """What a host is told: names, where their certificate comes from, and who serves it.

    ``state`` is a directory for what is remembered, ``metrics`` a file for Prometheus's node exporter.
    """

    names: Sequence[str]
    issuer: Acme | Own
    store: Store
    proxy: Proxy
    state: Path
    metrics: Path


@dataclass(frozen=True)
class Look:
    """What is there: ``present`` is what the proxy has, ``candidate`` what the issuer has given last.

    ``problem`` is why there is no candidate, ``wrong`` what the proxy serves instead of the present one.
    """

    origin: str = ""
    present: Certificate | None = None
    candidate: Certificate | None = None
    problem: str = ""
    wrong: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Plan:
    """``issue`` says why a certificate is to be asked for, ``serve`` why the proxy needs the candidate."""

    issue: str = ""
    serve: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.issue or self.serve)


def decide(look: Look, names: Sequence[str], now: datetime, force: bool = False) -> Plan:
    """Return what is to be done."""
    issue = why_issue(look.candidate, names, now) or ("it is asked for" if force else "")
    if look.candidate is None:
        return Plan(issue)
    if look.present is None or look.present.fingerprint != look.candidate.fingerprint:
        return Plan(issue, "the proxy has another certificate")
    return Plan(issue, look.wrong[0] if look.wrong else "")


def why_issue(candidate: Certificate | None, names: Sequence[str], now: datetime) -> str:
    """Return why a certificate is needed, nothing if the candidate will do."""
    if candidate is None:
        return "there is none yet"
    if refused := refusals(candidate, names, now):
        return refused[0]
    return f"it expires on {candidate.not_after:%Y-%m-%d}" if now >= candidate.due else ""


def refusals(candidate: Certificate, names: Sequence[str], now: datetime) -> list[str]:
    """Return why a certificate may not be served in the place of another."""
    missing = candidate.missing(names)
    return [
        *([f"it is not for {', '.join(missing)}"] if missing else []),
        *([f"it expired on {candidate.not_after:%Y-%m-%d}"] if now >= candidate.not_after else []),
    ]


def inspect(site: Site) -> Look:
    """Look at the store, at what the issuer has, and at what is served."""
    present, wrong = None, []
    with suppress(AgentError):
        present = site.store.read()
        wrong = site.proxy.differences(present, site.names)
    candidate, problem = None, ""
    try:
        candidate = pairs.read(site.issuer.pair)
    except AgentError as error:
        problem = str(error)
    return Look(site.store.origin(), present, candidate, problem, wrong)


def prepare(site: Site, dry: bool = False) -> bool:
    """Give a proxy without a certificate one to start with; return whether it needed one.

    That is what the issuer has, or a placeholder.
    """
    with suppress(AgentError):
        site.store.read()
        return False
    if dry:
        return True
    try:
        version = site.store.add(site.issuer.pair, site.issuer.origin)
    except AgentError:
        with tempfile.TemporaryDirectory() as made:
            pairs.make_placeholder(Path(made), site.names)
            version = site.store.add(Path(made), PLACEHOLDER)
    site.store.switch(version)
    return True


def renew(site: Site, now: datetime, *, issue: bool = True, force: bool = False, dry: bool = False) -> Plan:
    """Get a certificate if it is time and have the newest one served; return what was, or is to be, done.

    Without ``issue`` nobody is asked for one. When none can be had, the newest that is still good is served
    all the same, and AgentError is raised.
    """
    look = inspect(site)
    plan = decide(look, site.names, now, force)
    if isinstance(site.issuer, Own) or not issue:
        plan = replace(plan, issue="")
    if dry:
        return plan
    failure = None
    with attempt(site, now):
        if plan.issue and isinstance(site.issuer, Acme):
            before = look.candidate
            try:
                site.issuer.issue(site.names)
                look = inspect(site)
                if look.candidate == before:
                    # Not to be passed over: authorities count how many they issue.
                    raise AgentError(
                        f"certbot put none into {site.issuer.pair}; see its log below {site.state}"
                    )
            except AgentError as error:
                failure = AgentError(f"a certificate is needed, since {plan.issue}, but: {error}")
        if look.candidate is None:
            raise failure or AgentError(look.problem)
        refused = refusals(look.candidate, site.names, now)
        serve = decide(look, site.names, now).serve
        if serve and not refused:
            deploy(site, look.candidate)
        if failure or refused:
            raise failure or AgentError(f"the certificate in {site.issuer.pair} cannot be used: {refused[0]}")
        site.store.prune()
    return replace(plan, serve=serve)


def deploy(site: Site, candidate: Certificate) -> None:
    """Have the candidate served, or the one before again; raises AgentError."""
    before = site.store.current
    version = site.store.add(site.issuer.pair, site.issuer.origin)
    site.store.switch(version)
    try:
        site.proxy.take(candidate, site.names)
    except AgentError:
        if before and before != version:
            site.store.switch(before)
            with suppress(AgentError):
                site.proxy.take(site.store.read(), site.names)
        raise


def check(site: Site, now: datetime) -> list[str]:
    """Return what is wrong with what is served; the metrics say it as well."""
    look = inspect(site)
    publish(site, look)
    if look.present is None:
        return ["the proxy has no certificate"]
    found = refusals(look.present, site.names, now)
    if look.origin != site.issuer.origin:
        found.append(f"it is from {look.origin}, and has to be from {site.issuer.origin}")
    return [*found, *look.wrong]


def status(site: Site, now: datetime) -> list[str]:
    """Return lines for the operator."""
    look, state = inspect(site), remembered(site)
    if look.present is None:
        return ["There is no certificate."]
    one = look.present
    return [
        f"From {look.origin}, serial {one.serial}",
        f"For {', '.join(sorted(one.names))}",
        f"Expires {local(one.not_after)}, in {(one.not_after - now).days} days",
        f"To be renewed from {local(one.due)} on",
        *([f"Not served: {wrong}" for wrong in look.wrong] or ["The proxy serves it."]),
        f"Last attempt {ago(state.attempt)}, last success {ago(state.success)}",
        *([f"Last error: {state.error}"] if state.error else []),
    ]


def local(moment: datetime) -> str:
    """Return a moment in the host's own time."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def ago(moment: float) -> str:
    """Return when something was, by seconds since the epoch."""
    return local(datetime.fromtimestamp(moment, UTC)) if moment else "never"


# --- what is remembered and measured


@contextmanager
def attempt(site: Site, now: datetime) -> Iterator[None]:
    """Remember how an attempt ended, and write the metrics after it."""
    state = State(now.timestamp(), remembered(site).success)
    try:
        yield
        state = replace(state, success=state.attempt)
    except AgentError as error:
        state = replace(state, error=str(error))
        raise
    finally:
        files.write(site.state / "state.json", json.dumps(asdict(state)).encode())
        publish(site, inspect(site))


def remembered(site: Site) -> State:
    """Return how the last attempt ended; one that cannot be read counts as none."""
    with suppress(OSError, ValueError, TypeError):
        return State(**json.loads((site.state / "state.json").read_text(encoding="utf-8")))
    return State()


def publish(site: Site, look: Look) -> None:
    """Write the metrics."""
    files.make_directory(site.metrics.parent)
    files.write(site.metrics, metrics.render(METRICS, measured(look, remembered(site))).encode())


def measured(look: Look, state: State) -> dict[str, float]:
    """Return the metrics' values; without a certificate there are no values of one."""
    values = {
        "last_attempt_timestamp_seconds": state.attempt,
        "last_success_timestamp_seconds": state.success,
    }
    if look.present:
        values |= {
            "expiry_timestamp_seconds": look.present.not_after.timestamp(),
            "renewal_timestamp_seconds": look.present.due.timestamp(),
            "placeholder": float(look.origin == PLACEHOLDER),
            "served": float(not look.wrong),
        }
    return {f"memoryark_certificate_{name}": value for name, value in values.items()}


@contextmanager
def locked(site: Site) -> Iterator[None]:
    """Be the only one at work; others wait."""
    files.make_directory(site.state, 0o700)
    handle = os.open(site.state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
