"""One request on its way through the stages: what stays the same from the first to the last."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirl_core.algorithm.answers.forms import Form
from mirl_core.algorithm.budget import description_limit
from mirl_core.algorithm.segments import description_stops, read_description
from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.base import TOO_LONG, Engine, Rendered, RequestContext, Sample, Sampling, derive_seed
from mirl_core.errors import ContextLengthError
from mirl_core.pipeline.deadline import Deadline
from mirl_core.types import Conversation, Description

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """A rendered conversation with everything that the stages need to answer it."""

    engine: Engine
    settings: ModelSettings
    references: tuple[Image, ...]
    """Images for the `reference` estimator."""
    conversation: Conversation
    """As the caller sent it, without the model's instruction."""
    options: MIRLOptions
    sampling: Sampling
    """`max_tokens` bounds one trajectory: description plus chain."""
    context: RequestContext
    form: Form | None
    """The form of answers; None: free text."""
    rendered: Rendered
    """`prompt`, rendered."""
    opening: tuple[int, ...]
    """Token ids of the description's opening tag."""
    deadline: Deadline

    @property
    def prompt(self) -> Conversation:
        """The conversation with the model's instruction to look first."""
        return self.conversation.with_instruction(self.settings.instruction)

    @property
    def description_limit(self) -> int:
        """Longest description; tokens.

        Raises:
            ContextLengthError: the prompt leaves no token for a description.
        """
        limit = description_limit(self.options, self.sampling.max_tokens)
        return self.within_context_length(limit, len(self.opening))

    def description_sampling(self, first_branch: int = 0) -> Sampling:
        """Return the sampling of descriptions, of which the first has the seed of this branch.

        Raises:
            ContextLengthError: the prompt leaves no token for a description.
        """
        return replace(
            self.sampling,
            max_tokens=self.description_limit,
            top_logprobs=None,
            stop=description_stops(self.settings.tags, self.settings.lenient),
            seed=derive_seed(self.sampling.seed, "describe"),
            first_branch=first_branch,
        )

    def read_description(self, sample: Sample) -> Description:
        """Return the description that `sample` spells, `truncated` where no token is left for a chain."""
        encode = self.engine.encode if self.settings.lenient else None
        description = read_description(sample, self.settings.tags, self.engine.decode, encode)
        length = max(len(sample.token_ids), len(description.token_ids))
        if length >= self.sampling.max_tokens and description.reason is None:
            return replace(description, reason="truncated")
        return description

    def stage_context(self, stage: str) -> RequestContext:
        """Return the context of one stage's engine call, with its own request id."""
        return replace(self.context, request_id=f"{self.context.request_id}-{stage}")

    def within_context_length(self, limit: int, suffix_tokens: int, rendered: Rendered | None = None) -> int:
        """Return `limit`, or less where the model's context holds less; at least 1; tokens.

        Args:
            suffix_tokens: length of what follows the prompt before sampling starts; tokens.
            rendered: the prompt; None: `self.rendered`.

        Raises:
            ContextLengthError: the prompt and the suffix fill the context.
        """
        prompt_tokens = (rendered or self.rendered).prompt_tokens
        free = self.engine.max_model_len - prompt_tokens - suffix_tokens
        if free < 1:
            raise ContextLengthError(
                f"{TOO_LONG}: this model's maximum context length is {self.engine.max_model_len} tokens; the "
                f"conversation takes {prompt_tokens}, which leaves no room for an answer",
                param="messages",
            )
        return max(1, min(limit, free))
