"""The values that flow through the pipeline. All are frozen: a stage returns new values.

Log-probabilities and mutual information are in nats, lengths in tokens, durations in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

FinishReason = Literal["stop", "length", "abort"]
Stage = Literal["describe", "score", "fork", "plain"]
PARAGRAPH = "\n\n"
"""Separates the instruction from the question."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Chat messages in the OpenAI form, images already decoded.

    An image is a content part `{"type": "image", "image": <PIL image>}`; every other part and message field
    is passed to the chat template unchanged.
    """

    messages: tuple[Mapping[str, Any], ...]
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def images(self) -> list[Image]:
        """All images, in the order of the conversation."""
        return [part["image"] for message in self.messages for part in image_parts(message)]

    @property
    def brings_image(self) -> bool:
        """Whether the newest message is a user's and carries an image: only then descriptions are sampled."""
        if not self.messages or self.messages[-1].get("role") != "user":
            return False
        return bool(image_parts(self.messages[-1]))

    def with_images(self, images: Sequence[Image] | None) -> Conversation:
        """Return the same conversation with other images in the same positions, or without any (`None`).

        A message that consists of images keeps its turn, as an empty text: chat templates read the first part
        of a list without looking whether there is one, and insist on alternating roles.
        """
        queue = list(images or ())
        messages: list[Mapping[str, Any]] = []
        for message in self.messages:
            if not image_parts(message):
                messages.append(message)
                continue
            parts: list[Any] = []
            for part in message["content"]:
                if not is_image(part):
                    parts.append(part)
                elif images is not None:
                    parts.append({**part, "image": queue.pop(0)})
            messages.append({**message, "content": parts or [_text_part("")]})
        return Conversation(tuple(messages), self.template_kwargs, self.tools)

    def with_instruction(self, text: str) -> Conversation:
        """Return the same conversation with `text` as the last paragraph of the newest message's text.

        It joins the last text part of the message, behind a blank line: chat templates put nothing, a blank
        or a line break between parts, some strip each part, and some move the images to the front. Where the
        message has no text, `text` becomes its last part.
        """
        if not text:
            return self
        last = self.messages[-1]
        content = last.get("content") or ""
        parts = [_text_part(content)] if isinstance(content, str) else list(content)
        for index in range(len(parts) - 1, -1, -1):
            if (before := _text_of(parts[index])) and before.strip():
                parts[index] = _text_part(f"{before.rstrip()}{PARAGRAPH}{text}", parts[index])
                break
        else:
            parts = [part for part in parts if _text_of(part) is None] + [_text_part(text)]
        return Conversation(
            (*self.messages[:-1], {**last, "content": parts}), self.template_kwargs, self.tools
        )


def _text_part(text: str, part: object = None) -> dict[str, Any]:
    """Return a text part, with the other fields of `part` where that is one."""
    return {**(part if isinstance(part, Mapping) else {}), "type": "text", "text": text}


def _text_of(part: object) -> str | None:
    """Return the text of a text part; None for other parts."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and part.get("type") == "text":
        return str(part.get("text") or "")
    return None


def is_image(part: object) -> bool:
    """Return whether a content part is an image."""
    return isinstance(part, Mapping) and part.get("type") == "image"


def image_parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the image parts of a message."""
    content = message.get("content")
    return [part for part in content if is_image(part)] if isinstance(content, list | tuple) else []


@dataclass(frozen=True, slots=True)
class Switch:
    """A position at which a contrastive decode took another token than the model given the image alone."""

    position: int
    """Index in the description's tokens."""
    drafted: str
    """Text of the token that is likelier given the image."""
    chosen: str
    """Text of the token that owes more to the image."""
    gain: float
    """By how much the chosen token's `log p(t | I, q) − λ·log p(t | q)` exceeds the drafted one's; nats."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a description was decoded instead of sampled."""

    weight: float
    """λ of the image-free term."""
    switches: tuple[Switch, ...]
    rounds: int
    """Drafts that the decode waited for, one after the other."""
    logprobs: tuple[float, ...] = ()
    """Log p of each token given the image; nats."""
    drafts: tuple[int, ...] = ()
    """Numbers of those drafts among all of the request, which its decodes share; in order."""
    wasted: tuple[int, ...] = ()
    """Numbers of the drafts that it started ahead and that a switch made useless."""
    verified: tuple[tuple[int, int], ...] = ()
    """Number and tokens of each image-free scoring pass that it needed; decodes share passes too."""


@dataclass(frozen=True, slots=True)
class Description:
    """One sampled or decoded description with its scores and its fate.

    `token_ids` are exactly the sampled ones, closing tag included, so that a fork continues them; only where
    a model's settings are `lenient` may the closing tag take the place of what follows the content. The first
    `content_tokens` of them are the content, which is scored; its length normalises the score.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    content_tokens: int
    logprob: float
    """Σ log p(d_t | d_<t, I, q) over the content tokens; nats."""
    marginal: float | None = None
    """Σ log p(d_t | d_<t, q) under the estimator; None until scored, or where no score is needed; nats."""
    mi: float | None = None
    """`logprob − λ·marginal`, clipped per token where the options say so; nats."""
    score: float | None = None
    """The gate's score; of the gate `mi` the MI, per content token unless `normalize` is `sum`."""
    kept: bool = False
    reason: str | None = None
    """Why it was dropped: `truncated`, `empty`, `unparsable`, `duplicate`, `gate`, or `stopped`: the vote was
    certain, or the deadline passed, before it was complete; None where it was not dropped."""
    token_mi: tuple[float, ...] | None = None
    """MI of each content token; nats; None unless the options ask for it."""
    token_pmi: tuple[float, ...] | None = None
    """Pointwise mutual information of each content token with the image: `token_mi` at λ = 1, not clipped;
    nats; None where `token_mi` is."""
    token_texts: tuple[str, ...] | None = None
    """Text of each content token, as many as `token_mi`; empty where a token ends inside a character, which a
    later token completes; None where `token_mi` is."""
    votes: int | None = None
    """Votes that it gives to the answer of its chains; None where descriptions are gated: chains vote."""
    decoding: Decoding | None = None
    """How it was decoded; None: it was sampled."""
    repeats: int | None = None
    """Index of the earlier description with the same content, whose chain it shares; None: it has its own."""

    @property
    def usable(self) -> bool:
        """Whether chains may continue it, kept by the gate or not."""
        return self.reason in (None, "gate", "duplicate")

    @property
    def mi_per_token(self) -> float | None:
        """`mi` per content token; nats."""
        return None if self.mi is None else self.mi / max(self.content_tokens, 1)


@dataclass(frozen=True, slots=True)
class Chain:
    """One reasoning chain, forked from description `description` (None: plain generation)."""

    description: int | None
    fork: int
    text: str
    reasoning: str
    answer: str | None
    """The answer segment verbatim; None: the chain gave none and has no vote."""
    tokens: int
    finish_reason: FinishReason
    score: float | None = None
    """Its description's gate score."""
    start: int = 0
    """Index in `text` where the answer begins; characters."""
    calls: bool = False
    """Whether the answer is tool calls: a JSON array of objects with `name` and `arguments`."""
    votes: int = 1
    """Votes of its answer: of all descriptions that share it."""

    @property
    def finished(self) -> bool:
        """Whether it ended by itself or at its length limit."""
        return self.finish_reason != "abort"


@dataclass(frozen=True, slots=True)
class ContentToken:
    """One sampled token that spells a part of the answer."""

    token_id: int
    text: str
    """The text that it adds; empty where it ends inside a character, which a later token completes."""
    logprob: float
    """Raw log p; nats."""
    likeliest: tuple[tuple[str, float], ...] = ()
    """Text and raw log p of the likeliest tokens at its position, in descending order; nats."""


@dataclass(frozen=True, slots=True)
class Vote:
    """The result of a vote over answers that cluster."""

    answer: str
    """The winning cluster's normalised answer."""
    counts: Mapping[str, float]
    """Weight by normalised answer (votes, or MI mass for `mi_weighted`)."""
    share: float
    """The winner's share of all weight, 0 to 1."""


@dataclass(frozen=True, slots=True)
class StageUsage:
    """The cost of one stage."""

    stage: Stage
    sequences: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """The answer with its evidence."""

    content: str
    reasoning: str
    finish_reason: FinishReason
    representative: Chain
    description: Description | None
    descriptions: tuple[Description, ...]
    chains: tuple[Chain, ...]
    vote: Vote | None
    confidence: float | None
    """Vote share, or the probability that the answer is right where `calibrated`, 0 to 1; None where answers
    don't cluster."""
    margin: float | None
    """Gate score of the representative's description less the best score of another text; nats."""
    prompt_tokens: int
    stages: tuple[StageUsage, ...]
    aggregation: str
    """The rule that decided: `majority`, `mi_weighted` or `best` (`auto` resolves to one of these)."""
    partial: bool = False
    """Whether the deadline passed and this is the best answer so far."""
    fallback: str | None = None
    """Why the gate was not used (`no usable description`); None where it was."""
    mi_weight: float | None = None
    """λ of every description's `mi`, `auto` resolved; None where no description has an `mi`."""
    calibrated: bool = False
    """Whether the model's calibration turned the vote share into `confidence`."""
    uncalibrated: str | None = None
    """Why not, in words; None where it did."""
    warnings: tuple[str, ...] = ()
    """What a reader of the answer should know before they trust it, a sentence each."""
    content_tokens: tuple[ContentToken, ...] | None = None
    """Every token that spells a part of `content`; the first and the last may spell more (white space, a part
    of a tag). None where `Sampling.top_logprobs` is None."""

    @property
    def completion_tokens(self) -> int:
        """All sampled tokens, each counted once, dropped and aborted sequences included."""
        return sum(stage.generated_tokens for stage in self.stages)

    @property
    def scored_tokens(self) -> int:
        """Tokens of all scoring passes."""
        return sum(stage.scored_tokens for stage in self.stages)
