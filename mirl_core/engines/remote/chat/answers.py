"""Translation of a server's chat completions to samples and to log-probabilities of a suffix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirl_core.engines.base import Sample, Sampling
from mirl_core.engines.common.samples import checked_finish_reason, cut_at_stop_string, stop_string_end
from mirl_core.engines.common.text import TextCodec
from mirl_core.engines.remote.chat.alignment import ends, spread
from mirl_core.engines.remote.sampling import ranked_values
from mirl_core.errors import EngineError
from mirl_core.types import FinishReason

FORM = "a server answered a chat completion of another form than OpenAI's"


def read_sample(index: int, answer: Any, sampling: Sampling, text: TextCodec) -> Sample:
    """Return the sample of branch `index` in a chat completion.

    Without token ids in the answer, the text is encoded here, and the log-probabilities are given to these
    tokens by their characters.

    Raises:
        EngineError: the answer's form is not OpenAI's, or has no log-probabilities.
    """
    try:
        choice = answer["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or []
        logprobs = [float(position["logprob"]) for position in content]
        reason = _reason(choice["finish_reason"])
        if choice.get("token_ids") is None:
            said = str(choice["message"].get("content") or "")
            ids = text.encode(said)
            lengths = [len(str(position["token"])) for position in content]
            at_ends = [sum(lengths[: count + 1]) for count in range(len(lengths))]
            values = tuple(spread(logprobs, at_ends, ends(ids, text.verbatim)))
            if stop_string_end(said, sampling.stop) is not None:
                reason = "stop"
            return cut_at_stop_string(Sample(index, ids, values, "", reason), sampling.stop, text.decode)
        ids = tuple(int(token) for token in choice["token_ids"])
        confidence, likeliest = ranked_values([_by_token(position) for position in content], sampling)
    except (TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
        raise EngineError(FORM) from error
    if len(logprobs) != len(ids):
        raise EngineError(f"a server answered {len(logprobs)} log-probabilities for {len(ids)} tokens")
    sample = Sample(index, ids, tuple(logprobs), "", reason, confidence, likeliest)
    return cut_at_stop_string(sample, sampling.stop, text.decode)


@dataclass(frozen=True, slots=True)
class SuffixLogprobs:
    """Log p at each position of a suffix, nats."""

    positions: list[dict[int, float]]
    exact: bool
    """Whether the server read the suffix as the same tokens."""


def read_suffix(answer: Any, prompt: Sequence[int], suffix: Sequence[int], text: TextCodec) -> SuffixLogprobs:
    """Return log p by token id at each position of the suffix that ended the prompt.

    Where the server's tokens of the suffix's text differ from the suffix, their log-probabilities are given
    to its tokens by their characters; the sum stays the same. The likeliest tokens are then kept only where
    both have the same token at the same place.

    Args:
        prompt: the prompt without the suffix.

    Raises:
        EngineError: the answer has no log-probabilities of the prompt.
    """
    try:
        ids = [int(token) for token in answer["prompt_token_ids"]]
        by_position = [
            {int(token): float(entry["logprob"]) for token, entry in (position or {}).items()}
            for position in answer["prompt_logprobs"]
        ]
        begin = _suffix_start(ids, prompt, suffix, text)
        own = [by_position[at][ids[at]] for at in range(begin, len(ids))]
    except (TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
        raise EngineError("the server returned no prompt log-probabilities") from error
    tail, tops = ids[begin:], by_position[begin:]
    if tail == list(suffix):
        return SuffixLogprobs(tops, exact=True)
    from_ends, to_ends = ends(tail, text.verbatim), ends(suffix, text.verbatim)
    values = spread(own, from_ends, to_ends)
    there = {(start, token): top for start, token, top in zip([0, *from_ends], tail, tops, strict=False)}
    positions = [
        {**there.get((start, token), {}), token: value}
        for start, token, value in zip([0, *to_ends], suffix, values, strict=False)
    ]
    return SuffixLogprobs(positions, exact=False)


def _suffix_start(ids: Sequence[int], prompt: Sequence[int], suffix: Sequence[int], text: TextCodec) -> int:
    """Return where the suffix's text begins among a server's tokens."""
    if list(ids[: len(prompt)]) == list(prompt):
        return len(prompt)
    # The template ends the prompt differently where a message goes on: count from the end.
    wanted = len(text.verbatim(suffix))
    start = len(ids)
    while start > 0 and len(text.verbatim(ids[start:])) < wanted:
        start -= 1
    return start


def _by_token(position: Mapping[str, Any]) -> dict[int, float]:
    """Return log p by token id of a position's likeliest tokens, from vLLM's `token_id:NUMBER`."""
    return {
        int(str(top["token"]).removeprefix("token_id:")): float(top["logprob"])
        for top in position.get("top_logprobs") or ()
    }


def _reason(reason: object) -> FinishReason:
    # Other servers' parsers have words of their own for an end by the model.
    return "stop" if reason in ("tool_calls", "function_call") else checked_finish_reason(reason, "a server")
