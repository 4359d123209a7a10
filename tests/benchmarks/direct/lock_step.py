"""Draft and verify on vLLM against the decode token by token on transformers, in float32: equal tokens?

    python -m tests.benchmarks.direct.lock_step --data charts/iid [--n 50] [--lookahead 1,8]

Every dev question is decoded for λ = 0, 0.5 and 1. A decode that differs is printed with its number of
switches: one that reaches the limit on drafting (four times its length) may not switch any more.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import torch
import typer

from mirl_core.bundled import BundledModel, for_data
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.hf.engine import HFEngine
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.pipeline.events import Described
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import Question
from tests.integration.engines.contrast_cases import lock_step

WEIGHTS = (0.0, 0.5, 1.0)
LONGEST = 64
"""Of a description; tokens."""


def main(
    data: Annotated[str, typer.Option(help="data set of a bundled world")] = "charts/iid",
    n: Annotated[int, typer.Option(help="dev questions", min=1)] = 50,
    lookahead: Annotated[str, typer.Option(help="tokens, with commas")] = "1,8",
    draft_tokens: Annotated[int, typer.Option(help="tokens of a draft", min=1)] = 8,
) -> None:
    """Run the comparison and print how many decodes are equal."""
    questions = open_data(data, "dev", n, 0).questions
    looks = [int(look) for look in lookahead.split(",")]
    asyncio.run(compare(for_data([data]), questions, looks, draft_tokens))


async def compare(
    model: BundledModel, questions: tuple[Question, ...], looks: list[int], draft_tokens: int
) -> None:
    """Decode every question in both ways and print what differs."""
    settings = ModelSettings.load(model.path) or ModelSettings()
    vllm = await VLLMEngine.start(str(model.path), dtype="float32")
    transformers = await HFEngine.start(str(model.path), dtype=torch.float32)
    try:
        for look in looks:
            options = MIRLOptions(
                contrast=WEIGHTS, descriptions=0, description_tokens=LONGEST, lookahead=look,
                draft_tokens=draft_tokens,
            )  # fmt: skip
            equal = switches = 0
            for question in questions:
                conversation = question.conversation()
                run = Pipeline(vllm, settings).run(
                    conversation,
                    options,
                    Sampling(max_tokens=200),
                    RequestContext(question.key),
                    chains=False,
                )
                described = [event.description async for event in run if isinstance(event, Described)]
                for description in described:
                    assert description.decoding is not None
                    weight, taken = description.decoding.weight, len(description.decoding.switches)
                    by_steps = await lock_step(transformers, settings, conversation, weight, LONGEST, look)
                    equal += description.token_ids == by_steps
                    switches += taken
                    if description.token_ids != by_steps:
                        print(f"{question.key}, λ = {weight}: differs, {taken} switches")
            decodes = len(questions) * len(WEIGHTS)
            print(f"lookahead {look}: {equal} of {decodes} equal, {switches} switches")
    finally:
        await vllm.close()
        await transformers.close()


if __name__ == "__main__":
    typer.run(main)
