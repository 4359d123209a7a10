"""The bank on real vLLM: what it holds is what the pipeline does with the same seed."""

from __future__ import annotations

import pytest

from mirl_core.bundled import DIGITS
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.evaluation.bank.plan import BankPlan
from mirl_core.evaluation.bank.sample import sample_question
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import Question, question_seed
from mirl_core.types import Result

PLAN = BankPlan(descriptions=4, forks=2, estimators=("text", "blank"), seed=3, max_tokens=200)
# What the rounding of bfloat16 may do to a token's log-probability in another batch; nats.
ROUNDING = 0.05


async def piped(engine: VLLMEngine, settings: ModelSettings, question: Question, estimator: str) -> Result:
    options = MIRLOptions(
        descriptions=4,
        keep=4,
        forks=2,
        estimator=estimator,  # type: ignore[arg-type]
        early_stop=False,
        token_mi=True,
        description_tokens=settings.options.description_tokens,
    )
    sampling = Sampling(max_tokens=200, seed=question_seed(3, question.key))
    context = RequestContext(f"piped-{question.key}-{estimator}")
    async for event in Pipeline(engine, settings).run(question.conversation(), options, sampling, context):
        last = event
    assert isinstance(last, Finished)
    return last.result


@pytest.mark.parametrize("number", [0, 1])
async def test_banked_values_are_the_pipelines(vllm_engine: VLLMEngine, number: int) -> None:
    settings = ModelSettings.load(DIGITS.path)
    assert settings is not None
    question = open_data("digits/iid", "dev", 2, 0).questions[number]
    banked = await sample_question(vllm_engine, settings, question, PLAN, data="digits/iid")
    same = 0
    for estimator in ("text", "blank"):
        result = await piped(vllm_engine, settings, question, estimator)
        answers = {(chain.description, chain.fork): chain.answer for chain in result.chains}
        for ours, theirs in zip(banked.descriptions, result.descriptions, strict=True):
            # Rounding may turn one draw in a great many; then nothing after it can be compared.
            if ours.text != theirs.text or ours.reason is not None:
                continue
            assert theirs.token_mi is not None
            assert (ours.tokens, ours.content_tokens) == (len(theirs.token_ids), theirs.content_tokens)
            pairs = zip(ours.logprobs, ours.marginals[estimator], strict=True)
            assert [logprob - marginal for logprob, marginal in pairs] == pytest.approx(
                theirs.token_mi, abs=2 * ROUNDING
            )
            same += sum(
                answers.get((chain.description, chain.fork)) == chain.answer
                for chain in banked.chains
                if chain.description == theirs.index
            )
    assert same >= 12, "of 16 chains, 8 under each estimator"
    usable = sum(d.reason is None for d in banked.descriptions)
    assert len(banked.chains) == 2 * usable
    greedy, chain = banked.greedy
    assert greedy.right is not None
    assert chain is not None
    for c in (*banked.chains, chain):
        assert c.confidence is not None
        assert c.lowest_confidence is not None
        assert 0 < c.lowest_confidence <= c.confidence + 1e-9 < 100
