"""The operator's and the timers' way in: ``certificates prepare|renew|…`` and ``firewall metrics``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memoryark_agent import certificates, firewall
from memoryark_agent.certificates import Site
from memoryark_agent.errors import AgentError
from memoryark_agent.issuers import Acme, Own
from memoryark_agent.proxy import Proxy
from memoryark_agent.store import Store

SETTINGS = Path("/etc/memoryark/certificates/settings.json")
STATE = "/var/lib/memoryark/certificates"
METRICS = "/var/lib/memoryark/metrics"
# Of the proxy on a host.
PORT = 443
PATIENCE = 60.0


def read_site(path: Path) -> Site:
    """Return the site that the file ``path`` describes; raises AgentError."""
    try:
        raw: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        state = Path(raw.get("state", STATE))
        issuer: Acme | Own
        if raw["method"] == "own":
            issuer = Own(Path(raw["own"]))
        else:
            webroot = Path(raw["webroot"])
            issuer = Acme(method=raw["method"], state=state, webroot=webroot, **raw["acme"])
        return Site(
            names=raw["names"],
            issuer=issuer,
            store=Store(Path(raw["store"]), raw["group"]),
            proxy=Proxy(**{"port": PORT, "patience": PATIENCE, **raw["proxy"]}),
            state=state,
            metrics=Path(raw.get("metrics", f"{METRICS}/certificates.prom")),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AgentError(f"{path} cannot be used: {error!r}. Run site.yml: it writes the file") from error


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(prog="memoryark")
    parser.add_argument("--settings", type=Path, default=SETTINGS, help="default: %(default)s")
    subjects = parser.add_subparsers(title="subjects", required=True)
    subject = subjects.add_parser("certificates", help="the certificate of the proxy")
    subject.set_defaults(act=on_certificate)
    verbs = subject.add_subparsers(title="commands", dest="verb", required=True)
    for verb, (_act, text) in VERBS.items():
        verbs.add_parser(verb, help=text)
    for verb in ACTING:
        verbs.choices[verb].add_argument("--dry-run", action="store_true", help="only say what would be done")
    verbs.choices["renew"].add_argument("--force", action="store_true", help="also when it is not time yet")
    subject = subjects.add_parser("firewall", help="the rules of the host")
    subject.set_defaults(act=on_firewall)
    counting = subject.add_subparsers(title="commands", required=True).add_parser(
        "metrics", help="write down what was dropped, for Prometheus' node exporter"
    )
    counting.add_argument(
        "--file", type=Path, default=Path(METRICS, "firewall.prom"), help="default: %(default)s"
    )
    return parser.parse_args(argv)


def prepare(site: Site, _now: datetime, options: argparse.Namespace) -> str:
    return "changed: it has one to start with" if certificates.prepare(site, options.dry_run) else "unchanged"


def renew(site: Site, now: datetime, options: argparse.Namespace) -> str:
    return said(certificates.renew(site, now, force=options.force, dry=options.dry_run))


def deploy(site: Site, now: datetime, options: argparse.Namespace) -> str:
    return said(certificates.renew(site, now, issue=False, dry=options.dry_run))


def check(site: Site, now: datetime, _options: argparse.Namespace) -> str:
    if wrong := certificates.check(site, now):
        raise AgentError("\n".join(wrong))
    return "The right certificate is served."


def status(site: Site, now: datetime, _options: argparse.Namespace) -> str:
    return "\n".join(certificates.status(site, now))


def said(plan: certificates.Plan) -> str:
    """Return the result as one line, which begins with whether anything changed."""
    reasons = [
        *([f"a new one is issued: {plan.issue}"] if plan.issue else []),
        *([f"it is given to the proxy: {plan.serve}"] if plan.serve else []),
    ]
    return f"changed: {'; '.join(reasons)}" if reasons else "unchanged"


VERBS: dict[str, tuple[Callable[[Site, datetime, argparse.Namespace], str], str]] = {
    "prepare": (prepare, "give a proxy without a certificate one to start with"),
    "renew": (renew, "get a new one if it is time, and have it served"),
    "deploy": (deploy, "have the newest one served, without asking for another"),
    "check": (check, "see whether the right one is served"),
    "status": (status, "tell what is served, until when, and how the last attempt ended"),
}
# Those that change something; only one of them works at a time.
ACTING = ("prepare", "renew", "deploy")


def on_certificate(options: argparse.Namespace) -> str:
    site = read_site(options.settings)
    acts = options.verb in ACTING and not options.dry_run
    with certificates.locked(site) if acts else nullcontext():
        return VERBS[options.verb][0](site, datetime.now(UTC), options)


def on_firewall(options: argparse.Namespace) -> str:
    firewall.publish(options.file)
    return f"{options.file} is written."


def main(argv: list[str] | None = None) -> int:
    """Run one command; 1 is the exit code of one that failed."""
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        print(options.act(options))
    except (AgentError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
