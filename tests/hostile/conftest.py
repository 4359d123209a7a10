"""The server of the hostile requests: `mirl-serve` with an engine, and in `make test-full` a gateway too."""

from __future__ import annotations

import pytest

from tests.helpers.servers import RunningServer


@pytest.fixture(
    scope="session",
    params=["in_process", pytest.param("gateway", marks=pytest.mark.full)],
    ids=lambda kind: kind,
)
def server(real_vllm: None, request: pytest.FixtureRequest) -> RunningServer:
    """Return the server of this kind; shared, so leave nothing running in it."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]
