"""What all engines share: room for an answer, refusals by their words, seeds of branches, their traces."""

from __future__ import annotations

import pytest

from mirl_core.engines.base import (
    Rendered,
    RequestContext,
    Sampling,
    checked_rendering,
    derive_seed,
    error_from_vllm,
    too_long_to_score,
)
from mirl_core.errors import ContextLengthError, RequestError


def test_a_prompt_must_leave_room_for_one_token() -> None:
    assert checked_rendering(99, "inputs", 100) == Rendered(99, "inputs")
    for tokens in (100, 101):
        with pytest.raises(ContextLengthError) as caught:
            checked_rendering(tokens, "inputs", 100)
        assert caught.value.param == "messages"
        assert caught.value.message == (
            "the prompt is too long: this model's maximum context length is 100 tokens, answer included; "
            f"messages are {tokens} tokens long with their images"
        )


def test_a_description_that_cannot_be_scored_blames_the_messages() -> None:
    error = too_long_to_score(100)
    assert error.param == "messages"
    assert error.message.startswith(
        "the prompt is too long: this model's maximum context length is 100 tokens;"
    )


def test_a_refusal_is_classified_by_vllms_words() -> None:
    long = error_from_vllm("This model's maximum context length is 9 tokens", "input")
    assert (type(long), long.param) == (ContextLengthError, "input")
    assert long.message == "the prompt is too long: This model's maximum context length is 9 tokens"
    other = error_from_vllm("top_p is 7", "top_p")
    assert (type(other), other.param, other.message) == (RequestError, "top_p", "top_p is 7")


@pytest.mark.parametrize(
    ("likeliest", "ranked"),
    [((0, None), 0), ((5, None), 5), ((5, 3), 5), ((5, 8), 8), ((0, 2), 2), ((0, 0), 0)],
)
def test_an_engine_ranks_as_many_tokens_as_the_larger_setting(
    likeliest: tuple[int, int | None], ranked: int
) -> None:
    assert Sampling(max_tokens=1, alternatives=likeliest[0], top_logprobs=likeliest[1]).ranked == ranked


def test_a_branch_has_its_own_trace_or_its_requests() -> None:
    whole = RequestContext("id", "salt", 3, trace_headers=(("traceparent", "all"),))
    assert whole.of_branch(1) is whole
    split = RequestContext(
        "id", "salt", 3, "lora", (("traceparent", "all"),), ((("traceparent", "a"),), (("traceparent", "b"),))
    )
    assert split.of_branch(1) == RequestContext("id", "salt", 3, "lora", (("traceparent", "b"),))


def test_seeds_are_31_bits_of_a_hash_and_never_change() -> None:
    assert derive_seed(None, "fork", 1) is None
    # The first four bytes of BLAKE2b-32 of "(7, 'fork', 1, 2)", less their last bit.
    assert derive_seed(7, "fork", 1, 2) == 573380021
    assert derive_seed(0) == 1200591173
    seeds = [derive_seed(seed, branch) for seed in range(40) for branch in range(40)]
    assert len(set(seeds)) == 1600
    assert max(filter(None, seeds)) < 2**31
    assert max(filter(None, seeds)) > 2**30
