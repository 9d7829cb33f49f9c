"""What wrk says is read as it is meant, and a wrong answer is no measurement."""

from __future__ import annotations

import pytest
from memoryark_lab.errors import LabError

from tests.bench import edge

SAID = """\
Running 8s test @ https://photos.church.test:9443/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     7.24ms    4.10ms  71.10ms   93.00%
    Req/Sec     4.60k   392.41     5.10k    80.00%
  Latency Distribution
     50%  640.00us
     75%    7.74ms
     90%    9.10ms
     99%    1.20s
  36800 requests in 8.00s, 5.20MB read
Requests/sec:   4600.00
Transfer/sec:    665.60KB
"""


def test_what_wrk_says_is_read() -> None:
    assert edge.read(SAID, 3.68) == pytest.approx({"rate": 4600.0, "cpu": 0.0001, "p50": 0.00064, "p99": 1.2})


@pytest.mark.parametrize(
    "line", ["  Non-2xx or 3xx responses: 1", "  Socket errors: connect 0, read 3, write 0, timeout 0"]
)
def test_a_wrong_answer_is_no_measurement(line: str) -> None:
    with pytest.raises(LabError, match="not what was asked for"):
        edge.read(f"{SAID}{line}\n", 1.0)


def test_a_client_that_says_something_else_is_noticed() -> None:
    with pytest.raises(LabError, match="says something else"):
        edge.read("wrk 5", 1.0)


def test_a_variant_differs_in_its_ports_and_its_limit_only() -> None:
    text = (
        "worker_processes 2;\npid /tmp/nginx.pid;\nlimit_req_zone $client zone=requests_5:10m rate=5r/s;\n"
        "listen 127.0.0.1:8081;\nlisten 8080 default_server;\nlisten [::]:8080 default_server;\n"
        "listen 8443 ssl;\nlisten [::]:8443 ssl;\n"
    )
    assert edge.variant(text, "one", 9080, 9443).splitlines() == [
        "worker_processes 2; worker_cpu_affinity 10 10;",
        "pid /tmp/one.pid;",
        "limit_req_zone $client zone=requests_5:10m rate=1000000r/s;",
        "listen 127.0.0.1:9081;",
        "listen 9080 default_server;",
        "listen [::]:9080 default_server;",
        "listen 9443 ssl;",
        "listen [::]:9443 ssl;",
    ]
