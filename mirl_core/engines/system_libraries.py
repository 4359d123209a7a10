"""Libraries of the system that vLLM needs and that no Python package brings."""

from __future__ import annotations

import ctypes
import sys

from mirl_core.errors import ConfigError


def check_libnuma() -> None:
    """Check that a Linux system has libnuma, with which vLLM's library for CPUs is linked.

    Without it vLLM's engine fails half a minute later, in words that don't name it.

    Raises:
        ConfigError: it is missing.
    """
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError as error:
        raise ConfigError(
            "vLLM for CPUs needs libnuma, which this system lacks: apt install libnuma1 (Debian, Ubuntu) or "
            "dnf install numactl-libs (Fedora)"
        ) from error
