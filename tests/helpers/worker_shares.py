"""pytest plugin: how pytest-xdist shares the tests among its workers (`--dist loadfile`).

Tests that need a server process are one worker's, because they share servers; so are those that start engines
in the test's process. The remaining tests go to whichever worker is free, file by file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

ENGINELESS = ("tests/unit/", "tests/deploy/")
IN_PROCESS = (
    "tests/integration/engines/", "tests/integration/evaluation/", "tests/integration/training/",
    "tests/integration/server/test_request_fields.py",
)  # fmt: skip


def share_of(nodeid: str) -> str:
    """Return the name of the share that a test belongs to; a share is one worker's."""
    path = nodeid.partition("::")[0]
    if path.startswith(ENGINELESS):
        return path
    return "engines" if path.startswith(IN_PROCESS) else "servers"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Return the scheduler of `share_of`; None, which is xdist's own, for other kinds of distribution."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Shares(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return share_of(nodeid)

    return Shares(config, log)
