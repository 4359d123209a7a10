"""vLLM's block manager shares what the figures of the light-KV benchmark say it shares."""

from __future__ import annotations

import math

import pytest

from tests.benchmarks.light_kv.blocks import peaks
from tests.benchmarks.light_kv.figures import shared_blocks, unshared_blocks


@pytest.mark.parametrize("prompt", [64, 70])
def test_branches_share_the_prompt_and_forks_their_description(prompt: int) -> None:
    stages = peaks(prompt, description=20, chain=40, descriptions=4, keep=2, forks=2, block=16)
    described, forked, sampled = stages.values()
    # The last token of a sequence needs no keys and values.
    assert described == (shared_blocks(prompt, [19] * 4, 16), unshared_blocks(prompt, [19] * 4, 16))
    assert sampled == (shared_blocks(prompt, [59] * 16, 16), unshared_blocks(prompt, [59] * 16, 16))
    # All chains share the prompt's full blocks, and both chains of a description its full blocks.
    whole, described_blocks = prompt // 16, (prompt + 19) // 16
    longest = math.ceil((prompt + 59) / 16)
    shared = whole + 2 * (described_blocks - whole) + 4 * (longest - described_blocks)
    assert forked == (shared, unshared_blocks(prompt, [59] * 4, 16))
