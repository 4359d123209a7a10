"""KV-cache memory of one request's branches, by vLLM's own block manager; no model runs.

    python -m tests.benchmarks.light_kv.blocks --prompt 1280 --layers 28 --kv-heads 4 --head-size 128

The block manager of the engine's scheduler allocates the blocks of the request's sequences, step by step,
with its prefix cache: N descriptions at once, then k · m chains of the kept ones, or 16 whole trajectories.
What counts is the peak of blocks in use. Without sharing, every sequence would hold the prompt itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated

import typer

from tests.benchmarks.light_kv.figures import unshared_blocks
from tests.benchmarks.tables import markdown

__all__ = ["Blocks", "peaks"]

Tokens = tuple[int, ...]


class Blocks:
    """vLLM's block manager for one group of full-attention layers.

    Args:
        block: size of a block; tokens.
        longest: longest sequence; tokens.
    """

    def __init__(self, block: int, longest: int, blocks: int = 100_000) -> None:
        import torch
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_manager import KVCacheManager
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

        init_none_hash(sha256)
        spec = FullAttentionSpec(block_size=block, num_kv_heads=1, head_size=1, dtype=torch.float16)
        config = KVCacheConfig(
            num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        )
        self._manager = KVCacheManager(config, longest, block, block)
        self._hasher = get_request_block_hasher(block, sha256)
        self._numbers = itertools.count()

    @property
    def used(self) -> int:
        """Blocks in use."""
        pool = self._manager.block_pool
        # The first block is vLLM's placeholder.
        return int(pool.num_gpu_blocks - 1 - pool.get_num_free_blocks())

    def run(self, prompts: Sequence[Tokens], tokens: int) -> tuple[int, list[Tokens]]:
        """Sample `tokens` after each prompt, all at once; return the peak of blocks, and the sequences."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        running = []
        for prompt in prompts:
            number = next(self._numbers)
            request = Request(
                f"r{number}", list(prompt), SamplingParams(max_tokens=tokens), None, block_hasher=self._hasher
            )
            cached, computed, *_ = self._manager.get_computed_blocks(request)
            new = len(prompt) - computed
            allocated = self._manager.allocate_slots(request, new, computed, cached)
            assert allocated is not None, "the cache is large enough"
            request.num_computed_tokens = len(prompt)
            running.append((number, request))
        peak = self.used
        for position in range(tokens):
            for number, request in running:
                # Samples differ from each other, as a rule.
                request.append_output_token_ids(1_000_000 + 10_000 * number + position)
                if position + 1 < tokens:
                    # The last token's keys and values are never needed.
                    assert self._manager.allocate_slots(request, 1) is not None
                    request.num_computed_tokens += 1
            peak = max(peak, self.used)
        sequences = [tuple(request.all_token_ids) for _, request in running]
        for _, request in running:
            self._manager.free(request)
        return peak, sequences


def peaks(
    prompt: int, description: int, chain: int, descriptions: int, keep: int, forks: int, block: int
) -> dict[str, tuple[int, int]]:
    """Return the peak of KV blocks in use, and what it would be without sharing, by stage.

    Args:
        prompt: tokens, images included.
        description: tokens of each.
        chain: tokens of each.
        block: size of a block; tokens.
    """
    longest = prompt + description + chain
    blocks, text = Blocks(block, longest + block), tuple(range(prompt))
    described, sequences = blocks.run([text] * descriptions, description)
    chains = [sequence for sequence in sequences[:keep] for _ in range(forks)]
    forked, _ = blocks.run(chains, chain)
    sampled, _ = Blocks(block, longest + block).run([text] * 16, description + chain)

    def alone(count: int, tokens: int) -> int:
        return unshared_blocks(prompt, [tokens - 1] * count, block)

    return {
        f"{descriptions} descriptions": (described, alone(descriptions, description)),
        f"{keep} x {forks} chains": (forked, alone(keep * forks, description + chain)),
        "sc@16": (sampled, alone(16, description + chain)),
    }


def main(
    prompt: Annotated[int, typer.Option(min=1, help="tokens, images included")] = 1280,
    smaller: Annotated[str, typer.Option(help="further lengths of the prompt, with commas")] = "",
    description: Annotated[int, typer.Option(min=1, help="tokens")] = 60,
    chain: Annotated[int, typer.Option(min=1, help="tokens")] = 200,
    descriptions: Annotated[int, typer.Option(min=1, help="N")] = 10,
    keep: Annotated[int, typer.Option(min=1, help="k")] = 6,
    forks: Annotated[int, typer.Option(min=1, help="m")] = 2,
    block: Annotated[int, typer.Option(min=1, help="tokens of a KV block")] = 16,
    layers: Annotated[int, typer.Option(min=1)] = 28,
    kv_heads: Annotated[int, typer.Option(min=1)] = 4,
    head_size: Annotated[int, typer.Option(min=1)] = 128,
) -> None:
    """Print the memory of a request's branches by stage, in bfloat16 and FP8."""
    each = 2 * layers * kv_heads * head_size * block / 2**20
    body = []
    for length in [prompt, *(int(each) for each in filter(None, smaller.split(",")))]:
        stages = peaks(length, description, chain, descriptions, keep, forks, block)
        for stage, (shared, alone) in stages.items():
            body.append(
                [
                    str(length),
                    stage,
                    str(shared),
                    str(alone),
                    f"{shared / alone:.2f}",
                    f"{2 * shared * each:.0f}",
                    f"{shared * each:.0f}",
                ]
            )
    print(
        markdown(
            [
                "prompt tokens",
                "sequences at once",
                "blocks",
                "without sharing",
                "share",
                "MiB, bfloat16",
                "MiB, FP8",
            ],
            body,
        )
    )


if __name__ == "__main__":
    typer.run(main)
