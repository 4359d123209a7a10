"""A bank with decodes on real vLLM: a replayed preset answers as the pipeline does."""

from __future__ import annotations

from mirl_core.algorithm.answers import normalize
from mirl_core.bundled import DIGITS
from mirl_core.config import ModelSettings
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.evaluation.bank.plan import BankPlan
from mirl_core.evaluation.bank.sample import sample_question
from mirl_core.evaluation.methods import ReplayDraw, parse_methods
from mirl_core.evaluation.methods.steered import Steered
from mirl_core.pipeline.events import Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.tasks.data import open_data
from mirl_core.tasks.questions import Question, question_seed
from mirl_core.types import Result

QUESTIONS = 5
PLAN = BankPlan(
    descriptions=8, forks=2, estimators=("text",), seed=3, max_tokens=200, contrast=(0.0, 0.5, 1.0)
)


async def piped(engine: VLLMEngine, settings: ModelSettings, question: Question, method: Steered) -> Result:
    sampling = Sampling(max_tokens=200, temperature=settings.temperature, seed=question_seed(3, question.key))
    pipeline = Pipeline(engine, settings)
    context = RequestContext(f"piped-{question.key}")
    async for event in pipeline.run(question.conversation(), method.options, sampling, context):
        last = event
    assert isinstance(last, Finished)
    return last.result


async def test_a_replayed_preset_is_the_pipeline(vllm_engine: VLLMEngine) -> None:
    settings = ModelSettings.load(DIGITS.path)
    assert settings is not None
    settings = settings.model_copy(update={"calibration": None})
    (method,) = parse_methods("steered(ahead=0)", settings)
    assert isinstance(method, Steered)
    in_order = ReplayDraw(tuple(range(PLAN.descriptions)), tuple(range(PLAN.forks)), 0)
    compared = 0
    for question in open_data("digits/iid", "dev", QUESTIONS, 0).questions:
        banked = await sample_question(vllm_engine, settings, question, PLAN, data="digits/iid")
        assert [decode.weight for decode in banked.decoded] == [0.0, 0.5, 1.0]
        result = await piped(vllm_engine, settings, question, method)
        decoded = [description for description in result.descriptions if description.decoding]
        texts = [decode.description.text for decode in banked.decoded]
        # Rounding may turn one token in a great many; then nothing can be compared.
        if [description.text for description in decoded] != texts:
            continue
        played = method.play(banked, in_order)
        assert played.ticks is not None
        assert played.generated_tokens > 0
        assert played.scored_tokens > 0
        if len(result.descriptions) == len(decoded):
            assert normalize(played.answer or "") == normalize(result.content)
            compared += 1
    assert compared >= QUESTIONS // 2
