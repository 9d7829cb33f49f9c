from __future__ import annotations
import sys
import pytest
from collections.abc import Iterator
from memoryark_lab import images
from memoryark_lab.progress import Progress
from tests.integration import proxy_bed
from tests.integration.proxy_bed import *

SECRET = "0123456789abcdef" * 2

@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with (
        images.root_of("nginx-proxy", Progress(total=1)) as root,
        proxy_bed.running(root, tmp_path_factory.mktemp("proxy"), SECRET) as bed,
    ):
        yield bed

def test_x(proxy: Proxy) -> None:
    print(proxy.ask("/"), proxy.ask("/api/files"), proxy.lines, proxy.errors)
    proxy.reload()
