"""pytest plugin: how pytest-xdist shares the tests among its workers (`--dist loadfile`).

One worker has all tests outside ENGINELESS, and with them the session's engines, so that one engine works at
a time. The others take the remaining tests, file by file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

ENGINELESS = ("tests/unit/", "tests/deploy/")


def share_of(nodeid: str) -> str:
    """Return the name of the share that a test belongs to; a share is one worker's."""
    path = nodeid.partition("::")[0]
    return path if path.startswith(ENGINELESS) else "engines"


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
