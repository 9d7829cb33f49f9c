"""The product's proxy against a bare nginx of the same package, in turn, before the same upstream.

No host: both run from the image's root in namespaces, see ``tests/integration/proxy_bed.py``. Workers have one
processor for themselves, the client and the upstream another one, so that what is compared is the proxy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from line_platform import signature
from memoryark_lab import images
from memoryark_lab.errors import LabError
from memoryark_lab.progress import Progress

from tests.integration import proxy_bed
from tests.integration.proxy_bed import LINE, PHOTOS, PROXY, WWW_DATA, Proxy, children, seeing

SECONDS = 8
CONNECTIONS = 32
# A file as large as a small picture, and the events that LINE may send at once.
FILE_BYTES = 16384
BODY = json.dumps({"destination": "U0", "events": [{"type": "message", "message": {"id": "0"}}] * 5})
_SECRET = "0" * 32
_CHALLENGE = "/.well-known/acme-challenge/file"
# The processor of the client and of what is behind the proxy; the workers have the second one.
_ELSEWHERE = ("taskset", "--cpu-list", "0")
_WORKERS = "worker_processes 2; worker_cpu_affinity 10 10;"

_UPSTREAM = """
daemon off; worker_processes 1; pid {place}/upstream.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000;
    client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
    server {{ {listen} location / {{ return 200 "ok\\n"; }} }}
}}
"""
_BARE = """
{workers} pid /tmp/bare.pid; error_log /dev/stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log /dev/stdout combined;
    ssl_certificate /srv/tls/current/fullchain.pem;
    ssl_certificate_key /srv/tls/current/privkey.pem;
    server {{ listen 11080; location / {{ root /srv/acme-challenge; }} }}
    server {{ listen 11443 ssl; location / {{ proxy_pass http://{upstream}; }} }}
}}
"""
_POST = """
wrk.method = "POST"
wrk.body = {body}
wrk.headers["x-line-signature"] = {signature}
"""

Result = dict[str, Any]


@dataclass(frozen=True)
class Nginx:
    """One that runs: its main process, and its ports without and with TLS."""

    pid: int
    plain: int
    tls: int

    def cpu_seconds(self) -> float:
        """Return what its workers have computed."""
        paths = [Path(f"/proc/{worker}/stat") for worker in children(self.pid)]
        stats = [path.read_text().rpartition(")")[2].split() for path in paths]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Upstream:
    """A bare nginx in place of the services."""

    place: Path

    @contextmanager
    def listening(self, where: Mapping[tuple[str, int], str], /) -> Iterator[None]:
        """Serve at ``where`` until the block ends."""
        listen = " ".join(f"listen {address}:{port};" for address, port in where)
        file = self.place / "upstream.conf"
        file.write_text(_UPSTREAM.format(place=self.place, listen=listen), encoding="utf-8")
        with subprocess.Popen([*_ELSEWHERE, "nginx", "-e", "stderr", "-c", str(file)]) as nginx:
            try:
                yield
            finally:
                nginx.terminate()


@dataclass(frozen=True)
class Bed:
    """All that is compared."""

    place: Path
    product: Nginx
    unsigned: Nginx
    bare: Nginx


def variant(text: str, name: str, plain: int, tls: int) -> str:
    """Return the product's configuration at other ports, without its limit of requests for one client."""
    for old, new in ((8080, plain), (8443, tls), (8081, plain + 1)):
        text = re.sub(rf"(listen \S*?)\b{old}\b", rf"\g<1>{new}", text)
    text = re.sub(r"worker_processes \d+;", _WORKERS, text)
    text = text.replace("/tmp/nginx.pid", f"/tmp/{name}.pid")
    return re.sub(r"rate=\d+r/s", "rate=1000000r/s", text)


@contextmanager
def bed() -> Iterator[Bed]:
    """Start all of it; raises LabError without wrk."""
    if shutil.which("wrk") is None:
        raise LabError("the part edge needs the client wrk; install Debian's package wrk")
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memoryark-bench-")))
        root = stack.enter_context(images.root_of("nginx-proxy", Progress(total=1)))
        proxy = stack.enter_context(proxy_bed.running(root, place, _SECRET, Upstream(place)))
        # Thousands of connections to the upstream each second would use up the ports, which then are searched for.
        ports = ["net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_tw_reuse=1"]
        subprocess.run(
            ["nsenter", f"--net={proxy.network}", "sysctl", "--quiet", "--write", *ports], check=True
        )
        file = proxy.inside / "srv" / "acme-challenge" / _CHALLENGE.lstrip("/")
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x" * FILE_BYTES)
        text = (place / "config" / "nginx.conf").read_text(encoding="utf-8")
        frontend = re.search(
            r"upstream memoryark-frontend-\d+ \{[^}]*?server (\S+)",
            (place / "config" / "upstreams.conf").read_text(encoding="utf-8"),
        )
        assert frontend is not None
        passed = "error_page 418 = @signed-1; return 418;"

        def start(name: str, configuration: str, plain: int, tls: int) -> Nginx:
            return stack.enter_context(_started(proxy, name, configuration, plain, tls))

        unsigned = variant(text, "unsigned", 10080, 10443).replace("js_content edge.line_signed;", passed)
        yield Bed(
            place,
            start("product", variant(text, "product", 9080, 9443), 9080, 9443),
            start("unsigned", unsigned, 10080, 10443),
            start("bare", _BARE.format(workers=_WORKERS, upstream=frontend[1]), 11080, 11443),
        )


@contextmanager
def _started(proxy: Proxy, name: str, text: str, plain: int, tls: int) -> Iterator[Nginx]:
    """Run another nginx beside that of the bed."""
    (proxy.place / "config" / f"{name}.conf").write_text(text, encoding="utf-8")
    reading, writing = os.pipe()
    os.fchown(writing, WWW_DATA, WWW_DATA)
    command = proxy.command("nginx", "-e", "stderr", "-c", f"/etc/memoryark/{name}.conf", "-g", "daemon off;")
    # Somebody reads what it logs, as Podman does.
    with (
        (proxy.place / "stderr").open("ab") as errors,
        subprocess.Popen([*_ELSEWHERE, "cat"], stdin=reading, stdout=subprocess.DEVNULL),
        subprocess.Popen(command, stdout=writing, stderr=errors) as entering,
    ):
        os.close(reading)
        os.close(writing)
        _wait_for(tls, entering, proxy)
        main = children(entering.pid)[0]
        try:
            yield Nginx(main, plain, tls)
        finally:
            os.kill(main, signal.SIGTERM)


def _wait_for(port: int, process: subprocess.Popen[bytes], proxy: Proxy) -> None:
    deadline = time.monotonic() + 20
    while not proxy_bed.listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"nginx does not listen at port {port}:\n{proxy.errors}")
        time.sleep(0.05)


def ask(bed: Bed, nginx: Nginx, url: str, *, connections: int = CONNECTIONS, script: str = "") -> Result:
    """Send as many requests as are answered for some seconds, over connections that are kept."""
    hosts = bed.place / "hosts"
    hosts.write_text(f"{PROXY[0]} {PHOTOS} {LINE}\n", encoding="utf-8")
    (bed.place / "wrk.lua").write_text(script, encoding="utf-8")
    options = ["--threads", "1", "--connections", str(connections), "--duration", f"{SECONDS}s", "--latency"]
    client = [*_ELSEWHERE, "wrk", *options, "--script", str(bed.place / "wrk.lua"), url]
    before = nginx.cpu_seconds()
    done = subprocess.run(seeing(hosts, "/etc/hosts", client), capture_output=True, text=True, check=True)
    return read(done.stdout, nginx.cpu_seconds() - before)


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def read(output: str, cpu_seconds: float) -> Result:
    """Return what wrk has measured; raises LabError when an answer was not a good one."""
    if "Non-2xx" in output or "Socket errors" in output:
        raise LabError(f"the answers are not what was asked for:\n{output}")
    requests = re.search(r"(\d+) requests in", output)
    rate = re.search(r"Requests/sec: +([\d.]+)", output)
    if requests is None or rate is None:
        raise LabError(f"wrk says something else than it used to:\n{output}")
    latencies = {
        f"p{part}": float(value) * _UNITS[unit]
        for part, value, unit in re.findall(r"^ +(50|99)% +([\d.]+)(us|ms|s)$", output, re.MULTILINE)
    }
    return {"rate": float(rate[1]), "cpu": cpu_seconds / int(requests[1]), **latencies}


def measure(progress: Progress, pairs: int) -> Result:
    """Compare the product with the bare one, and webhooks that are checked with such as are not."""
    signed = signature.sign(_SECRET, BODY.encode())
    post = _POST.format(body=json.dumps(BODY), signature=json.dumps(signed))
    found: Result = {"static": [], "proxied": [], "webhook": []}
    with bed() as all_of_it:
        product, unsigned, bare = all_of_it.product, all_of_it.unsigned, all_of_it.bare

        def take(one: Nginx, what: str) -> Result:
            if what == "static":
                return ask(all_of_it, one, f"http://{PHOTOS}:{one.plain}{_CHALLENGE}")
            if what == "proxied":
                return ask(all_of_it, one, f"https://{PHOTOS}:{one.tls}/")
            return ask(all_of_it, one, f"https://{LINE}:{one.tls}/webhook/line", connections=1, script=post)

        for number in range(1, pairs + 1):
            for what, other in (("static", bare), ("proxied", bare), ("webhook", unsigned)):
                title = f"nginx, {what}, pair {number} of {pairs}"
                with progress.step(title, f"about {2 * SECONDS} s"):
                    found[what].append((take(product, what), take(other, what)))
    return found
