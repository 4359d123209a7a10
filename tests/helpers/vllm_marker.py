"""pytest plugin: the marker `vllm` stands for exactly the tests that start or use a real vLLM engine.

A test gets it from the fixture `real_vllm`, which everything that starts an engine requests. Set by hand it
would say something else, or nothing, so that is refused.

Under pytest-xdist (`--dist loadgroup`) these tests share a worker, and with it their engines: one works at
a time. The other workers take the remaining tests, file by file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadGroupScheduling

FIXTURE = "real_vllm"
GROUP = "engines"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests, before `-m` selects among them.

    Raises:
        UsageError: a test has the marker by hand.
    """
    by_hand = [item.nodeid for item in items if item.get_closest_marker("vllm") is not None]
    if by_hand:
        raise pytest.UsageError(
            f"the marker `vllm` comes from the fixture `{FIXTURE}`, request that in {', '.join(by_hand)}"
        )
    for item in items:
        if FIXTURE in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.xdist_group(GROUP))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadGroupScheduling | None:
    """Return xdist's scheduler by group, whose tests without a group stay together by file."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class ByGroupOrFile(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            group = super()._split_scope(nodeid)
            return nodeid.partition("::")[0] if group == nodeid else group

    return ByGroupOrFile(config, log)
