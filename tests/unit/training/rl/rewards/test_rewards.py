"""Rewards: what each kind counts, that a failing one stops nothing, that a bad recipe fails by its key."""

from __future__ import annotations

import logging
import math
import sys
import types
from collections.abc import Callable
from fractions import Fraction
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirl_core.config import Tags
from mirl_core.errors import ConfigError
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.recipe.config import AnswerReward, MIReward
from mirl_core.training.rl.rewards import REWARDS, Judge, make_rewards
from mirl_core.training.rl.rewards.mi import description_rewards, repetition
from mirl_core.types import Chain, Description, FinishReason
from tests.helpers.loaded_modules import loaded_after

GOOD = "<think>two and two</think><answer>4</answer>"


def question(answer: str, **more: Any) -> Question:
    return Question("q-1", "How many?", answer, image=lambda: Image.new("RGB", (1, 1)), **more)


def chain(answer: str | None, text: str = GOOD, finish: FinishReason = "stop") -> Chain:
    return Chain(0, 0, text, "", answer, tokens=5, finish_reason=finish)


def worth(config: AnswerReward, sample_question: Question, sampled_chain: Chain) -> float:
    (reward,) = make_rewards([config])
    return reward.score(sample_question, sampled_chain)


def test_rewards_and_advantages_load_no_backend() -> None:
    names = ("planners.rows", "recipe.config", "planners.advantages", "rewards", "rewards.mi")
    assert loaded_after("\n".join(f"import mirl_core.training.rl.{name}" for name in names)) == set()


def test_there_is_a_class_for_every_kind() -> None:
    assert set(REWARDS) == set(get_args(AnswerReward.model_fields["kind"].annotation))


@pytest.mark.parametrize(
    ("sample_question", "answer", "expected"),
    [
        (question("12"), "twelve", 1.0),
        (question("12"), "13", 0.0),
        (question("12"), None, 0.0),
        (question("B", choices=("cat", "dog")), "dog", 1.0),
        (question("B", choices=("cat", "dog")), "cat", 0.0),
        (question("10", accept=lambda said: said == "about ten"), "about ten", 1.0),
        (question("10", accept=lambda said: said == "about ten"), "10", 0.0),
    ],
)
def test_exact_follows_the_data_sets_own_rule(
    sample_question: Question, answer: str | None, expected: float
) -> None:
    assert worth(AnswerReward(kind="exact"), sample_question, chain(answer)) == expected


@pytest.mark.parametrize(
    ("truth", "answer", "tolerance", "expected"),
    [
        ("100", "105", 0.05, 1.0),
        ("100", "95", 0.05, 1.0),
        ("100", "105.0001", 0.05, 0.0),
        ("-100", "-105", 0.05, 1.0),
        ("-100", "105", 0.05, 0.0),
        ("10", "13", 0.3, 1.0),
        ("1,000 cm", "1010 centimeters", 0.01, 1.0),
        ("12 cm", "12 m", 1.0, 0.0),
        ("12 cm", "12", 1.0, 0.0),
        ("1/3", "\\frac{1}{3}", 0.0, 1.0),
        ("0.333", "1/3", 0.0, 0.0),
        ("0", "0.0", 0.5, 1.0),
        ("0", "0.001", 0.5, 0.0),
        ("100", "around", 0.5, 0.0),
        ("cat", "cat", 0.5, 0.0),
        ("100", None, 0.5, 0.0),
    ],
)
def test_numeric_compares_numbers_of_one_unit(
    truth: str, answer: str | None, tolerance: float, expected: float
) -> None:
    config = AnswerReward(kind="numeric", tolerance=tolerance)
    assert worth(config, question(truth), chain(answer)) == expected


@settings(deadline=None)
@given(st.fractions(max_denominator=50), st.fractions(max_denominator=50))
def test_numeric_without_tolerance_is_equality(truth: Fraction, answer: Fraction) -> None:
    config = AnswerReward(kind="numeric")
    assert worth(config, question(str(truth)), chain(str(answer))) == float(truth == answer)
    assert worth(config, question(str(truth)), chain(str(truth))) == 1.0


@pytest.mark.parametrize(
    ("truth", "answer", "expected"),
    [
        ("\\frac{\\pi}{2}", "$\\pi/2$", 1.0),
        ("(x+1)^2", "x^2 + 2x + 1", 1.0),
        ("(x+1)^2", "x^2 + 1", 0.0),
        ("0.5", "1/2", 1.0),
        ("x^2", None, 0.0),
    ],
)
def test_math_compares_expressions(truth: str, answer: str | None, expected: float) -> None:
    # The data set's own rule has no say.
    sample_question = question(truth, accept=lambda _: expected == 0.0)
    assert worth(AnswerReward(kind="math"), sample_question, chain(answer)) == expected


def test_math_needs_its_library_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install") as caught:
        make_rewards([AnswerReward(), AnswerReward(kind="math")])
    assert caught.value.param == "rewards.answer.1.kind"


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        (GOOD, "stop", 1.0),
        ("\n<think>\na\n</think>\n\n<answer>\nb\n</answer>\n", "stop", 1.0),
        (GOOD, "length", 0.0),
        (GOOD, "abort", 0.0),
        ("two and two</think><answer>4</answer>", "stop", 0.0),
        ("<think>two and two<answer>4</answer>", "stop", 0.0),
        ("<think>two and two</think>4", "stop", 0.0),
        ("<think>two and two</think><answer>4", "stop", 0.0),
        ("<think> </think><answer>4</answer>", "stop", 0.0),
        ("<think>two and two</think><answer> </answer>", "stop", 0.0),
        ("So <think>two and two</think><answer>4</answer>", "stop", 0.0),
        ("<think>two and two</think> hence <answer>4</answer>", "stop", 0.0),
        ("<think>two and two</think><answer>4</answer> or 5", "stop", 0.0),
        ("<think>a<think>b</think><answer>4</answer>", "stop", 0.0),
        ("<think>a</think><answer><answer>4</answer>", "stop", 0.0),
        ("<think>a</think><answer>4</answer></answer>", "stop", 0.0),
        ("<think>a <description>b</description></think><answer>4</answer>", "stop", 0.0),
        ("", "stop", 0.0),
    ],
)
def test_format_wants_every_tag_once_and_in_place(text: str, finish: FinishReason, expected: float) -> None:
    assert worth(AnswerReward(kind="format"), question("4"), chain("4", text, finish)) == expected


def test_format_requires_the_models_own_tags() -> None:
    tags = Tags(reasoning=("[THINK]", "[/THINK]"), answer=("[A]", "[/A]"))
    (reward,) = make_rewards([AnswerReward(kind="format")], tags)
    assert reward.score(question("4"), chain("4", "[THINK]a[/THINK][A]4[/A]")) == 1.0
    assert reward.score(question("4"), chain("4", GOOD)) == 0.0


Verifier = Callable[[Question, str | None, str], Any]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An importable module for functions under test."""
    made = types.ModuleType("my_rewards")
    monkeypatch.setitem(sys.modules, "my_rewards", made)
    return made


def called(function: str, weight: float = 1.0) -> AnswerReward:
    return AnswerReward(kind="callable", target=f"my_rewards:{function}", weight=weight)


def test_a_callable_is_called_with_question_answer_and_text(module: types.ModuleType) -> None:
    seen: list[tuple[str, str | None, str]] = []

    def short(sample_question: Question, answer: str | None, text: str) -> float:
        seen.append((sample_question.key, answer, text))
        return 0.25

    module.short = short  # type: ignore[attr-defined]
    assert worth(called("short"), question("4"), chain(None)) == 0.25
    assert seen == [("q-1", None, GOOD)]


@pytest.mark.parametrize(
    "target",
    [
        "nothing",
        "my_rewards:",
        ":short",
        "my_rewards:missing",
        "no.such.module:short",
        "my_rewards:number",
        ".a:b",
    ],
)
def test_a_callable_that_cannot_be_had_fails_by_its_key(module: types.ModuleType, target: str) -> None:
    module.number = 3  # type: ignore[attr-defined]
    with pytest.raises(ConfigError) as caught:
        make_rewards([AnswerReward(), AnswerReward(kind="callable", target=target)])
    assert caught.value.param == "rewards.answer.1.target"
    assert str(caught.value).startswith("rewards.answer.1.target: ")
    assert "\n" not in str(caught.value)


def test_a_module_that_breaks_while_importing_fails_by_its_key(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_rewards.py").write_text("raise RuntimeError('a\\nb')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="RuntimeError: a b") as caught:
        make_rewards([AnswerReward(kind="callable", target="broken_rewards:f")])
    assert caught.value.param == "rewards.answer.0.target"


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_must_be_a_number(weight: float) -> None:
    with pytest.raises(ConfigError) as caught:
        make_rewards([AnswerReward.model_construct(kind="exact", weight=weight, tolerance=0.0, target=None)])
    assert caught.value.param == "rewards.answer.0.weight"


def test_names_are_unique_so_that_no_metric_hides_another(module: types.ModuleType) -> None:
    module.exact = lambda *_: 0.0  # type: ignore[attr-defined]
    numeric = [AnswerReward(kind="numeric", tolerance=tolerance) for tolerance in (0.0, 0.1, 0.2)]
    names = [reward.name for reward in make_rewards([*numeric, AnswerReward(), called("exact")])]
    assert names == ["numeric", "numeric-2", "numeric-3", "exact", "exact-2"]


def test_rewards_add_up_with_their_weights() -> None:
    judge = Judge(make_rewards([AnswerReward(weight=2.0), AnswerReward(kind="format", weight=-0.5)]))
    right = judge.judge(question("4"), chain("4"))
    assert (right.total, right.parts, right.failed) == (1.5, {"exact": 1.0, "format": 1.0}, ())
    assert judge.judge(question("4"), chain("5", "5")).total == 0.0


def _raises(*_: object) -> float:
    raise RuntimeError("the user asked: SECRET")


@pytest.mark.parametrize(
    "broken",
    [_raises, lambda *_: math.nan, lambda *_: -math.inf, lambda *_: None, lambda *_: "good", lambda _: 1.0],
    ids=["raises", "nan", "inf", "none", "text", "signature"],
)
def test_a_reward_that_fails_counts_as_zero_and_stops_nothing(
    module: types.ModuleType, broken: Verifier, caplog: pytest.LogCaptureFixture
) -> None:
    module.broken = broken  # type: ignore[attr-defined]
    judge = Judge(make_rewards([called("broken", weight=3.0), AnswerReward()]))
    with caplog.at_level(logging.WARNING):
        judged = [judge.judge(question("4"), chain(answer)) for answer in ("4", "5")]
    assert [judgement.total for judgement in judged] == [1.0, 0.0]
    assert judged[0].parts == {"broken": 0.0, "exact": 1.0}
    assert [judgement.failed for judgement in judged] == [("broken",)] * 2
    assert len(caplog.records) == 1
    assert "'broken'" in caplog.text
    assert "SECRET" not in caplog.text
    assert GOOD not in caplog.text


def test_a_failure_is_logged_once_a_step(module: types.ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    module.broken = _raises  # type: ignore[attr-defined]
    judge = Judge(make_rewards([called("broken")]))
    for _ in range(2):
        judge.start_step()
        for _ in range(3):
            judge.judge(question("4"), chain("4"))
    assert len(caplog.records) == 2
    assert "RuntimeError in _raises" in caplog.text


def test_a_weight_that_makes_a_value_infinite_fails_too(module: types.ModuleType) -> None:
    module.huge = lambda *_: 1e300  # type: ignore[attr-defined]
    judged = Judge(make_rewards([called("huge", weight=1e300)])).judge(question("4"), chain("4"))
    assert (judged.total, judged.failed) == (0.0, ("huge",))


def description(tokens: tuple[int, ...], reason: str | None = None, closing: int = 1) -> Description:
    """A description of these content tokens and a closing tag."""
    return Description(0, "text", (*tokens, *range(900, 900 + closing)), len(tokens), -1.0, reason=reason)


WORDS = tuple(range(10))


def test_mi_is_per_token_or_the_sum() -> None:
    two = [description(WORDS[:2]), description(WORDS[:4])]
    mi = [(1.0, 2.0), (1.0, 1.0, 1.0, 3.0)]
    assert description_rewards(two, mi, MIReward()).values == (1.5, 1.5)
    summed = description_rewards(two, mi, MIReward(normalize="sum"))
    assert summed.values == (3.0, 6.0)
    assert summed.invalid == (False, False)


@pytest.mark.parametrize(
    ("invalid", "expected"), [(None, (0.5, -1.0, -1.0, -1.0)), (-7.0, (0.5, -1.0, -7.0, -7.0))]
)
def test_invalid_descriptions_get_the_lowest_of_the_group_or_a_fixed_reward(
    invalid: float | None, expected: tuple[float, ...]
) -> None:
    group = [
        description(WORDS),
        description(WORDS[:3]),
        description(WORDS, reason="truncated"),
        description((), reason="empty"),
    ]
    # However informative it looks: what is truncated has no MI.
    rewards = description_rewards(
        group, [(0.5,) * 10, (-1.0,) * 3, (4.0,) * 10, None], MIReward(invalid=invalid)
    )
    assert rewards.values == expected
    assert rewards.invalid == (False, False, True, True)


@pytest.mark.parametrize("reason", ["truncated", "empty", "unparsable"])
def test_every_unusable_description_is_invalid(reason: str) -> None:
    rewards = description_rewards([description(WORDS, reason)], [(1.0,) * 10], MIReward(invalid=-2.0))
    assert rewards.values == (-2.0,)


@pytest.mark.parametrize("reason", ["gate", "duplicate", None])
def test_what_the_gate_dropped_keeps_its_mi(reason: str | None) -> None:
    rewards = description_rewards([description(WORDS, reason)], [(1.0,) * 10], MIReward(invalid=-2.0))
    assert rewards.values == (1.0,)


def test_every_description_needs_its_mi() -> None:
    with pytest.raises(ValueError, match="shorter"):
        description_rewards([description(WORDS)] * 2, [(1.0,) * 10], MIReward())


@pytest.mark.parametrize(("length", "invalid"), [(7, False), (8, True)])
def test_from_eight_tokens_on_repetition_counts(length: int, invalid: bool) -> None:
    rewards = description_rewards(
        [description((5,) * length)], [(1.0,) * length], MIReward(max_repetition=0.3)
    )
    assert rewards.invalid == (invalid,)


def test_repetition_up_to_the_limit_is_allowed() -> None:
    # Eight tokens have five 4-grams, of which one stood there before.
    once_more = (1, 2, 3, 4, 1, 2, 3, 4)
    assert repetition(once_more) == pytest.approx(0.2)
    for limit, invalid in ((repetition(once_more), False), (0.19, True)):
        rewards = description_rewards([description(once_more)], [(1.0,) * 8], MIReward(max_repetition=limit))
        assert rewards.invalid == (invalid,)


def test_a_group_without_any_valid_description_has_equal_rewards() -> None:
    group = [description(WORDS, "truncated"), description((), "empty")]
    assert description_rewards(group, [None, None], MIReward()).values == (0.0, 0.0)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_mi_that_is_not_finite_is_invalid(bad: float) -> None:
    group = [description(WORDS[:2]), description(WORDS[:2])]
    assert description_rewards(group, [(0.5, bad), (0.25, 0.25)], MIReward(clip=None)).values == (0.25, 0.25)


def test_degenerate_repetition_is_invalid() -> None:
    loop = description((1, 2, 3, 4) * 5, closing=2)
    settings = MIReward(invalid=-2.0)
    assert description_rewards([loop], [(4.0,) * 20], settings).values == (-2.0,)
    allowed = settings.model_copy(update={"max_repetition": 1.0})
    assert description_rewards([loop], [(4.0,) * 20], allowed).values == (4.0,)


def test_a_short_description_is_never_degenerate() -> None:
    settings = MIReward(invalid=-2.0, max_repetition=0.1)
    short, long = description((1,) * 7), description((1,) * 8)
    assert description_rewards([short, long], [(1.0,) * 7, (1.0,) * 8], settings).values == (1.0, -2.0)


def test_only_content_counts_as_repetition() -> None:
    # Four 4-grams of the content, all different; with three closing tokens alike there would be repeats.
    tail = Description(0, "text", (*range(8), *(7,) * 12), 8, -1.0)
    assert description_rewards([tail], [(1.0,) * 8], MIReward(invalid=-2.0, max_repetition=0.1)).values == (
        1.0,
    )


@pytest.mark.parametrize(
    ("tokens", "share"),
    [((), 0.0), ((1, 2, 3), 0.0), ((1, 2, 3, 4), 0.0), ((1,) * 8, 0.8), ((1, 2, 3, 4, 1, 2, 3, 4), 0.2)],
)
def test_repetition_is_the_share_of_4_grams_seen_before(tokens: tuple[int, ...], share: float) -> None:
    assert repetition(tokens) == pytest.approx(share)
