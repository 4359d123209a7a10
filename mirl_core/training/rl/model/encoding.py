"""Rows as tensors: every distinct prompt rendered once, completions padded at the right."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from mirl_core.engines.hf.render import render_conversation
from mirl_core.training.rl.planners.rows import TrainingRow


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt as the processor gives it, image tokens expanded."""

    tokens: Mapping[str, Tensor]
    """(P,) each: `input_ids`, and what else there is by token (`token_type_ids`, `mm_token_type_ids`)."""
    media: Mapping[str, Tensor]
    """Pixels and what describes them; empty for a prompt of text alone."""

    def __len__(self) -> int:
        return len(self.tokens["input_ids"])

    def to(self, device: torch.device) -> EncodedPrompt:
        return EncodedPrompt(_to(self.tokens, device), _to(self.media, device))


RenderedPrompts = MutableMapping[int, EncodedPrompt]
"""RenderedPrompts that were rendered already, by the `id` of a Conversation that the caller keeps alive."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward pass takes. B rows of U distinct prompts, completions up to T tokens."""

    rows: tuple[TrainingRow, ...]
    prompts: tuple[EncodedPrompt, ...]
    """(U,) in order of first appearance."""
    owner: Tensor
    """(B,) int64: each row's prompt."""
    completions: Tensor
    """(B, T) int64; T is at least 2, so that every rank's forward pass has the same parts."""
    present: Tensor
    """(B, T) bool: not padding."""
    mask: Tensor
    """(B, T) bool: tokens in the loss."""
    sampler: Tensor
    """(B, T) log p as sampled; 0 where nothing was sampled; nats."""
    advantages: Tensor
    """(B,)"""
    blank: int
    """The token that fills padding."""

    @property
    def has_media(self) -> bool:
        return any(prompt.media for prompt in self.prompts)

    def tokens_read(self, prompts_once: bool) -> int:
        """Tokens that the language model reads, without padding."""
        read = range(len(self.prompts)) if prompts_once else self.owner.tolist()
        return sum(len(self.prompts[place]) for place in read) + int(self.present.sum())

    def to(self, device: torch.device) -> Batch:
        tensors: dict[str, Any] = _to({name: getattr(self, name) for name in _TENSORS}, device)
        return replace(self, prompts=tuple(prompt.to(device) for prompt in self.prompts), **tensors)


_TENSORS = ("owner", "completions", "present", "mask", "sampler", "advantages")


def render(processor: Any, rows: Sequence[TrainingRow], rendered: RenderedPrompts) -> None:
    """Add the prompts of some rows to `rendered`. Raises MIRLError where one can't be rendered."""
    for row in rows:
        if id(row.prompt) in rendered:
            continue
        inputs = render_conversation(processor, row.prompt)
        length = inputs.pop("attention_mask").shape[1]
        tokens = {name: value[0] for name, value in inputs.items() if value.shape == (1, length)}
        media = {name: value for name, value in inputs.items() if name not in tokens}
        rendered[id(row.prompt)] = EncodedPrompt(tokens, media)


def encode(
    processor: Any, rows: Sequence[TrainingRow], rendered: RenderedPrompts, placeholders: frozenset[int]
) -> Batch:
    """Rows as one padded batch, on the CPU.

    Args:
        processor: of the model.
        rows: at least one. Rows of one prompt share its Conversation object.
        rendered: prompts of earlier calls; new ones are added.
        placeholders: token ids that stand for media.

    Raises:
        ValueError: a completion holds a placeholder, which would ask the model for an image that isn't there.
        MIRLError: a prompt can't be rendered.
    """
    places: dict[int, int] = {}
    render(processor, rows, rendered)
    for row in rows:
        if not placeholders.isdisjoint(row.completion_ids):
            raise ValueError(f"a completion of {row.group!r} holds a media placeholder")
        places.setdefault(id(row.prompt), len(places))
    width = max(2, *(len(row.completion_ids) for row in rows))
    blank = next(token for token in range(len(placeholders) + 1) if token not in placeholders)

    def padded(values: Sequence[Sequence[float]], fill: float) -> list[list[float]]:
        return [[*line, *[fill] * (width - len(line))] for line in values]

    return Batch(
        rows=tuple(rows),
        prompts=tuple(rendered[key] for key in places),
        owner=torch.tensor([places[id(row.prompt)] for row in rows]),
        completions=torch.tensor(padded([row.completion_ids for row in rows], blank)),
        present=torch.tensor(padded([[True] * len(row.completion_ids) for row in rows], False)),
        mask=torch.tensor(padded([row.loss_mask for row in rows], False)),
        sampler=torch.tensor(padded([row.sampler_logprobs for row in rows], 0.0)),
        advantages=torch.tensor([row.advantage for row in rows]),
        blank=blank,
    )


def prompt_inputs(batch: Batch) -> dict[str, Tensor]:
    """The distinct prompts as the model's inputs: (U, P), padded at the right."""
    lengths = torch.tensor([len(prompt) for prompt in batch.prompts])
    columns = torch.arange(int(lengths.max()))
    inputs = {
        name: _stack([prompt.tokens[name] for prompt in batch.prompts], batch.blank, name)
        for name in batch.prompts[0].tokens
    }
    mask = (columns < lengths.unsqueeze(1)).long().to(batch.owner.device)
    return {**inputs, "attention_mask": mask, **gather_media(batch.prompts)}


def row_inputs(batch: Batch) -> dict[str, Tensor]:
    """Every row with a prompt of its own: (B, up to P + T), padded at the right; pixels repeated by row."""
    prompts = [batch.prompts[place] for place in batch.owner.tolist()]
    lines: dict[str, list[Tensor]] = {name: [] for name in ("attention_mask", *prompts[0].tokens)}
    for prompt, completion, present in zip(prompts, batch.completions, batch.present, strict=True):
        spoken = completion[present]
        for name, value in prompt.tokens.items():
            # What a processor says of tokens beside their id is 0 for text.
            tail = spoken if name == "input_ids" else torch.zeros_like(spoken)
            lines[name].append(torch.cat([value, tail]))
        lines["attention_mask"].append(torch.ones_like(lines["input_ids"][-1]))
    inputs = {name: _stack(line, batch.blank, name) for name, line in lines.items()}
    return {**inputs, **gather_media(prompts)}


def gather_media(prompts: Sequence[EncodedPrompt]) -> dict[str, Tensor]:
    """Media tensors of several prompts as one processor call over all of them would give them.

    Concatenated over the first dimension, others padded with zeros to the largest. That is what the families
    expect: one line a prompt with its images (Idefics3, SmolVLM, LLaVA-NeXT: an all-zero image is no image),
    one line an image (LLaVA, Gemma 3, InternVL), or all patches in one line with a grid an image (Qwen-VL).
    """
    names = dict.fromkeys(name for prompt in prompts for name in prompt.media)
    gathered = {}
    for name in names:
        parts = [prompt.media[name] for prompt in prompts if name in prompt.media]
        largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
        gathered[name] = torch.cat([_grow(part, largest) for part in parts])
    return gathered


def _grow(part: Tensor, largest: Sequence[int]) -> Tensor:
    missing = [want - have for want, have in zip(largest, part.shape[1:], strict=True)]
    # torch pads from the last dimension to the first.
    return pad(part, [amount for gap in reversed(missing) for amount in (0, gap)]) if any(missing) else part


def _stack(lines: Sequence[Tensor], blank: int, name: str) -> Tensor:
    fill = blank if name == "input_ids" else 0
    return torch.nn.utils.rnn.pad_sequence(list(lines), batch_first=True, padding_value=fill)


def _to(values: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in values.items()}
