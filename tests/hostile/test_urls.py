"""A server that fetches from every host: what leads to itself, its network or its files it leaves alone."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tests.helpers.servers import running
from tests.hostile.case import CANARY
from tests.hostile.run import run
from tests.hostile.urls import other_media, urls

pytestmark = [pytest.mark.usefixtures("real_vllm"), pytest.mark.full]


@pytest.mark.timeout(1200)
def test_no_url_leads_inside(tmp_path: Path) -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as inside:
        port = inside.getsockname()[1]
        flags = ["--allow-image-host", "*", "--allow-image-host", f"*:{port}", "--image-fetch", "timeout=2"]
        with running(tmp_path, flags) as server:
            report = asyncio.run(run(server.url, [*urls(port), *other_media(port)]))
            print(f"\n{report}")
            assert not report.wrong
            assert server.gauge("mirl_image_fetches_total") > 100
            log = server.log.read_text(errors="replace")
        # Nothing even connected.
        inside.setblocking(False)
        with pytest.raises(BlockingIOError):
            inside.accept()
    assert CANARY not in log
    assert "169.254.169.254" not in log
