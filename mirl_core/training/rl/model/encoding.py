"""Training rows as tensors: every distinct prompt rendered once, completions padded on the right."""

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
    """A prompt as the processor encodes it, image tokens expanded."""

    tokens: Mapping[str, Tensor]
    """(P,) each: `input_ids`, and other values by token (`token_type_ids`, `mm_token_type_ids`)."""
    media: Mapping[str, Tensor]
    """Pixels and their metadata; empty for a prompt of text alone."""

    def __len__(self) -> int:
        return len(self.tokens["input_ids"])

    def to(self, device: torch.device) -> EncodedPrompt:
        return EncodedPrompt(_to(self.tokens, device), _to(self.media, device))


RenderedPrompts = MutableMapping[int, EncodedPrompt]
"""Prompts rendered so far, by the `id` of a Conversation that the caller keeps alive."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one forward pass: B rows of U distinct prompts, completions of up to T tokens."""

    rows: tuple[TrainingRow, ...]
    prompts: tuple[EncodedPrompt, ...]
    """(U,) in order of first appearance."""
    owner: Tensor
    """(B,) int64: the index of each row's prompt."""
    completions: Tensor
    """(B, T) int64; T is at least 2, so that every rank's forward pass has the same parts."""
    present: Tensor
    """(B, T) bool: False for padding."""
    mask: Tensor
    """(B, T) bool: tokens in the loss."""
    sampler: Tensor
    """(B, T) log p as sampled; 0 where a token was not sampled; nats."""
    advantages: Tensor
    """(B,)"""
    blank: int
    """The token id that fills padding."""

    @property
    def has_media(self) -> bool:
        return any(prompt.media for prompt in self.prompts)

    def tokens_read(self, prompts_once: bool) -> int:
        """Count the tokens that the language model reads, without padding."""
        indices = range(len(self.prompts)) if prompts_once else self.owner.tolist()
        return sum(len(self.prompts[index]) for index in indices) + int(self.present.sum())

    def to(self, device: torch.device) -> Batch:
        tensors: dict[str, Any] = _to({name: getattr(self, name) for name in _TENSORS}, device)
        return replace(self, prompts=tuple(prompt.to(device) for prompt in self.prompts), **tensors)


_TENSORS = ("owner", "completions", "present", "mask", "sampler", "advantages")


def render(processor: Any, rows: Sequence[TrainingRow], rendered: RenderedPrompts) -> None:
    """Add the prompts of some rows to `rendered`. Raises MIRLError where a prompt can't be rendered."""
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
    """Encode rows as one padded batch, on the CPU.

    Args:
        processor: of the model.
        rows: at least one row. Rows of one prompt share its Conversation object.
        rendered: prompts of earlier calls; new prompts are added.
        placeholders: token ids that stand for media.

    Raises:
        ValueError: a completion holds a placeholder, for which there is no image.
        MIRLError: a prompt can't be rendered.
    """
    prompt_index: dict[int, int] = {}
    render(processor, rows, rendered)
    for row in rows:
        if not placeholders.isdisjoint(row.completion_ids):
            raise ValueError(f"a completion of {row.group!r} holds a media placeholder")
        prompt_index.setdefault(id(row.prompt), len(prompt_index))
    width = max(2, *(len(row.completion_ids) for row in rows))
    blank = next(token for token in range(len(placeholders) + 1) if token not in placeholders)

    def padded(values: Sequence[Sequence[float]], fill: float) -> list[list[float]]:
        return [[*line, *[fill] * (width - len(line))] for line in values]

    return Batch(
        rows=tuple(rows),
        prompts=tuple(rendered[key] for key in prompt_index),
        owner=torch.tensor([prompt_index[id(row.prompt)] for row in rows]),
        completions=torch.tensor(padded([row.completion_ids for row in rows], blank)),
        present=torch.tensor(padded([[True] * len(row.completion_ids) for row in rows], False)),
        mask=torch.tensor(padded([row.loss_mask for row in rows], False)),
        sampler=torch.tensor(padded([row.sampler_logprobs for row in rows], 0.0)),
        advantages=torch.tensor([row.advantage for row in rows]),
        blank=blank,
    )


def prompt_inputs(batch: Batch) -> dict[str, Tensor]:
    """Return the distinct prompts as the model's inputs: (U, P), padded on the right."""
    lengths = torch.tensor([len(prompt) for prompt in batch.prompts])
    columns = torch.arange(int(lengths.max()))
    inputs = {
        name: _stack([prompt.tokens[name] for prompt in batch.prompts], batch.blank, name)
        for name in batch.prompts[0].tokens
    }
    mask = (columns < lengths.unsqueeze(1)).long().to(batch.owner.device)
    return {**inputs, "attention_mask": mask, **gather_media(batch.prompts)}


def row_inputs(batch: Batch) -> dict[str, Tensor]:
    """Return every row with its prompt as the model's inputs: (B, up to P + T), padded on the right; pixels
    are repeated per row."""
    prompts = [batch.prompts[index] for index in batch.owner.tolist()]
    lines: dict[str, list[Tensor]] = {name: [] for name in ("attention_mask", *prompts[0].tokens)}
    for prompt, completion, present in zip(prompts, batch.completions, batch.present, strict=True):
        token_ids = completion[present]
        for name, value in prompt.tokens.items():
            # A processor's other values by token are 0 for text.
            tail = token_ids if name == "input_ids" else torch.zeros_like(token_ids)
            lines[name].append(torch.cat([value, tail]))
        lines["attention_mask"].append(torch.ones_like(lines["input_ids"][-1]))
    inputs = {name: _stack(line, batch.blank, name) for name, line in lines.items()}
    return {**inputs, **gather_media(prompts)}


def gather_media(prompts: Sequence[EncodedPrompt]) -> dict[str, Tensor]:
    """Return the media tensors of several prompts as one processor call over all of them would.

    Concatenated over the first dimension; other dimensions padded with zeros to the largest. The model
    families expect this: one entry per prompt with its images (Idefics3, SmolVLM, LLaVA-NeXT: an all-zero
    image is no image), one entry per image (LLaVA, Gemma 3, InternVL), or all patches in sequence with a grid
    per image (Qwen-VL).
    """
    names = dict.fromkeys(name for prompt in prompts for name in prompt.media)
    gathered = {}
    for name in names:
        parts = [prompt.media[name] for prompt in prompts if name in prompt.media]
        largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
        gathered[name] = torch.cat([_grow(part, largest) for part in parts])
    return gathered


def _grow(part: Tensor, largest: Sequence[int]) -> Tensor:
    missing = [target - size for target, size in zip(largest, part.shape[1:], strict=True)]
    # torch pads from the last dimension to the first.
    return pad(part, [amount for gap in reversed(missing) for amount in (0, gap)]) if any(missing) else part


def _stack(lines: Sequence[Tensor], blank: int, name: str) -> Tensor:
    fill = blank if name == "input_ids" else 0
    return torch.nn.utils.rnn.pad_sequence(list(lines), batch_first=True, padding_value=fill)


def _to(values: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in values.items()}
