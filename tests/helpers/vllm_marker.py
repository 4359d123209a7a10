"""pytest plugin: the marker `vllm` stands for exactly the tests that start or use a real vLLM engine.

A test gets it from the fixture `real_vllm`, which everything that starts an engine requests. Set by hand it
would say something else, or nothing, so that is refused.
"""

from __future__ import annotations

import pytest

FIXTURE = "real_vllm"


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
