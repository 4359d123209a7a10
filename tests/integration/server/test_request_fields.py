"""Request fields on real vLLM: tokens of the answer, answers held to a form, several answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mirl_core.algorithm.answers.forms import AnswerFormat, json_schema, one_of
from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.errors import RequestError
from mirl_core.pipeline.choices import run_choices
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Result
from tests.integration.engines.pipeline_cases import NUMBERS, picture, settings
from tests.integration.engines.pipeline_cases import SMALL as NARROW

SEEDED = Sampling(max_tokens=200, seed=3)
DIGIT = json_schema(
    {
        "type": "object",
        "properties": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["digit"],
        "additionalProperties": False,
    }
)


async def run(
    engine: VLLMEngine,
    sampling: Sampling = SEEDED,
    form: AnswerFormat | None = None,
    n: int = 1,
    **options: object,
) -> list[Result]:
    pipeline = Pipeline(engine, settings())
    context = RequestContext(f"fields-{next(NUMBERS)}")
    chosen = MIRLOptions.model_validate(NARROW | options)
    results: list[Result] = []
    async for event in run_choices(pipeline, picture(), chosen, sampling, context, n, form):
        results += event.results or ()
    return results


@pytest.mark.parametrize("top", [0, 5])
async def test_tokens_of_the_answer(vllm_engine: VLLMEngine, top: int) -> None:
    (result,) = await run(vllm_engine, replace(SEEDED, top_logprobs=top))
    assert result.content_tokens is not None
    spelled = "".join(token.text for token in result.content_tokens)
    assert result.content in spelled
    for token in result.content_tokens:
        assert token.logprob <= 0
        assert len(token.likeliest) == top
        values = [value for _, value in token.likeliest]
        assert values == sorted(values, reverse=True)
        # What was sampled is among the likeliest, or less likely than they are.
        if top:
            assert token.logprob <= values[0] + 1e-5


async def test_asking_for_tokens_changes_no_answer(vllm_engine: VLLMEngine) -> None:
    # Rivals are read on another path of vLLM's (stops by token): it must sample and cut the same.
    (plain,) = await run(vllm_engine, early_stop=False)
    (detailed,) = await run(vllm_engine, replace(SEEDED, top_logprobs=3), early_stop=False)
    assert detailed.content == plain.content
    assert {chain.text for chain in detailed.chains} == {chain.text for chain in plain.chains}
    assert plain.content_tokens is None


async def test_answers_are_json_of_the_schema(vllm_engine: VLLMEngine) -> None:
    (result,) = await run(vllm_engine, form=DIGIT, early_stop=False)
    answered = [chain for chain in result.chains if chain.answer is not None]
    assert answered, "no chain came to an answer"
    for chain in answered:
        value = json.loads(chain.answer or "")
        assert set(value) == {"digit"}
        assert 0 <= value["digit"] <= 9
    for chain in result.chains:
        # A finished chain can't have got out of the form.
        assert chain.finish_reason != "stop" or chain.answer is not None
    assert result.content in {chain.answer for chain in answered}
    assert result.aggregation == "majority"
    # Descriptions are as they are without it.
    (free,) = await run(vllm_engine, early_stop=False)
    assert {d.text for d in result.descriptions} == {d.text for d in free.descriptions}


async def test_a_form_and_its_tokens_together(vllm_engine: VLLMEngine) -> None:
    # A grammar would take vLLM's stop tokens for its own end: these samples end by stop strings.
    (result,) = await run(vllm_engine, replace(SEEDED, top_logprobs=2), one_of(["seven", "eight"]))
    assert result.content in ("seven", "eight")
    assert result.content_tokens
    assert result.content in "".join(token.text for token in result.content_tokens)


async def test_without_a_usable_description_the_answer_is_the_form(vllm_engine: VLLMEngine) -> None:
    (result,) = await run(vllm_engine, form=DIGIT, description_tokens=1)
    assert result.fallback
    assert set(json.loads(result.content)) == {"digit"}


async def test_schemas_are_checked_before_sampling(vllm_engine: VLLMEngine) -> None:
    await vllm_engine.check_structure(DIGIT.after_description(settings().tags))
    with pytest.raises(RequestError):
        await vllm_engine.check_structure(json_schema({"type": "no"}).after_description(settings().tags))


async def test_several_answers_share_one_rendering(vllm_engine: VLLMEngine) -> None:
    results = await run(vllm_engine, n=3, early_stop=False)
    (single,) = await run(vllm_engine, early_stop=False)
    assert len(results) == 3
    assert len({result.prompt_tokens for result in results}) == 1
    described = [{d.token_ids for d in result.descriptions} for result in results]
    assert described[0] == {d.token_ids for d in single.descriptions}
    assert described[0] != described[1]
