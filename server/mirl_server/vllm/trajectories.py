"""Answers of vLLM's own handlers, split into reasoning and content by the model's tags.

A model that was trained on trajectories writes its tags in plain and follow-up answers too. vLLM's reasoning
parsers would be the place, but `--reasoning-parser` also tells the engine to leave a text unconstrained until
its reasoning ends, and a constrained answer has none. So only the handlers' parsers are replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import State
from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.parser.abstract_parser import DelegatingParser, Parser

from mirl_core.algorithm.trajectory import Split, TrajectorySplitter, split_trajectory
from mirl_core.config import Tags

__all__ = ["split_answers"]

HANDLERS = {
    "openai_serving_chat": "parser_cls",
    "openai_serving_chat_batch": "parser_cls",
    "anthropic_serving_messages": "parser_cls",
    "openai_serving_responses": "parser",
}
"""vLLM's handlers in an app's state, with the attribute that holds the class of their parser."""


class TrajectoryParser(DelegatingParser):  # type: ignore[misc]
    """Splits an answer by the tags; vLLM's tool parser, if there is any, reads the content."""

    tags: Tags = Tags()
    always_adjust_request = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._splitter = TrajectorySplitter(self.tags)

    def adjust_request(self, request: Any) -> Any:
        """Keep tags that are special tokens in the text."""
        markup = {*self.tags.description, *self.tags.reasoning, *self.tags.answer}
        if markup.intersection(self.model_tokenizer.all_special_tokens):
            request.skip_special_tokens = False
        return super().adjust_request(request)

    def parse(
        self,
        model_output: str,
        request: Any,
        enable_auto_tools: bool = False,
        model_output_token_ids: Sequence[int] = (),
    ) -> tuple[str | None, str | None, Any]:
        """Return reasoning, content and tool calls of a whole answer."""
        split = split_trajectory(model_output, self.tags)
        _, content, calls = super().parse(split.content, request, enable_auto_tools, model_output_token_ids)
        return split.reasoning or None, content or (None if split.reasoning else content), calls

    def parse_delta(
        self,
        delta_text: str,
        delta_token_ids: list[int],
        request: Any,
        prompt_token_ids: list[int] | None = None,
        *,
        finished: bool,
    ) -> Any:
        """Return the delta of a streamed answer that `delta_text` adds; None where it adds nothing."""
        split = self._splitter.feed(delta_text, final=finished)
        delta = None
        if split.content or finished:
            delta = super().parse_delta(
                split.content, delta_token_ids, request, prompt_token_ids, finished=finished
            )
        return _with_reasoning(delta, split, request)


def _with_reasoning(delta: Any, split: Split, request: Any) -> Any:
    if delta is not None and not (delta.content or delta.tool_calls):
        delta = None
    if split.reasoning and request.include_reasoning:
        delta = delta or DeltaMessage()
        delta.reasoning = split.reasoning
    return delta


def split_answers(state: State, tags: Tags, tokenizer: Any) -> None:
    """Let vLLM's handlers in `state` split answers by `tags`.

    A handler whose operator chose a reasoning parser keeps it.
    """
    for name, attribute in HANDLERS.items():
        handler = getattr(state, name, None)
        if handler is not None:
            setattr(handler, attribute, _parser(getattr(handler, attribute), tags))
    if not {*tags.description, *tags.reasoning, *tags.answer}.isdisjoint(tokenizer.all_special_tokens):
        # The renderer lets its parser adjust requests, so that their answers' text keeps the tags.
        renderer = state.online_renderer
        renderer.parser = _parser(renderer.parser, tags)


def _parser(chosen: type[Parser] | None, tags: Tags) -> type[Parser] | None:
    if chosen is None:
        return type("Trajectories", (TrajectoryParser,), {"tags": tags})
    if chosen.reasoning_parser_cls is not None or not issubclass(chosen, DelegatingParser):
        return chosen
    return type("TrajectoriesAndTools", (TrajectoryParser, chosen), {"tags": tags})
