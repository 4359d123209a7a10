"""Families of models other than the bundled one, tiny and with random weights: each wants its pixels in
another form. The yardstick is transformers' own forward on one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from mirl_core.training.rl.model.encoding import row_inputs
from mirl_core.training.rl.model.forward import keeps_plain_keys
from mirl_core.training.rl.model.policy import Policy
from mirl_core.training.rl.planners.rows import TrainingRow
from mirl_core.training.rl.recipe.config import OptimizerConfig
from mirl_core.types import Conversation
from tests.fixtures.patches import IMAGE, START, PatchProcessor
from tests.unit.training.rl.model.policy_cases import furthest, gradients, make_row

TEXT: dict[str, Any] = {
    "vocab_size": 700,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def qwen(version: str) -> tuple[Any, PatchProcessor]:
    import transformers

    ids = {"image_token_id": IMAGE, "video_token_id": 8, "vision_start_token_id": START}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = TEXT | {"rope_parameters": rope}
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "intermediate_size": 32, "patch_size": 14}
    if version == "2.5":
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "window_size": 56, "fullatt_block_indexes": [1]}
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    else:
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "deepstack_visual_indexes": [0, 1]}
        vision |= {"num_position_embeddings": 64}
        config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
        model = transformers.Qwen3VLForConditionalGeneration(config)
    return model, PatchProcessor(True, lambda patches: patches // 4)


def llava() -> tuple[Any, PatchProcessor]:
    import transformers

    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT),
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28,
            patch_size=14,
        ),
        image_token_id=IMAGE,
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config), PatchProcessor(False, lambda patches: patches)


def gemma() -> tuple[Any, PatchProcessor]:
    """Layers with a sliding window, which don't keep all keys."""
    import transformers

    text = TEXT | {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**text),
        vision_config=transformers.SiglipVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28,
            patch_size=14,
        ),
        image_token_id=IMAGE,
        mm_tokens_per_image=4,
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config), PatchProcessor(False, lambda patches: patches)


MODELS: dict[str, Callable[[], tuple[Any, PatchProcessor]]] = {
    "qwen2.5": lambda: qwen("2.5"),
    "qwen3": lambda: qwen("3"),
    "llava": llava,
    "gemma3": gemma,
}


def rows_of_all_kinds() -> list[TrainingRow]:
    def ask(text: str, *sizes: tuple[int, int]) -> Conversation:
        images = [{"type": "image", "image": Image.new("RGB", size)} for size in sizes]
        return Conversation(({"role": "user", "content": [*images, {"type": "text", "text": text}]},))

    prompts = [
        ask("how many", (56, 84)),
        ask("which of the two is the larger one", (84, 56), (56, 56)),
        ask("why"),
    ]
    return [make_row(prompts[i % 3], 3 + 2 * i, i) for i in range(7)]


def yardstick(policy: Policy, rows: list[TrainingRow]) -> list[Tensor]:
    """Each row by itself, through transformers' own forward."""
    expected = []
    for row in rows:
        inputs = row_inputs(policy.encode([row]))
        logits = policy.model(**inputs, use_cache=False).logits.float()
        logits[..., policy.network.banned] = -torch.inf
        tokens = torch.tensor(row.completion_ids)
        values = logits[0, -len(tokens) - 1 : -1].log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        expected.append(values * torch.tensor(row.loss_mask))
    return expected


@pytest.mark.parametrize("name", list(MODELS))
def test_a_batch_equals_transformers_row_by_row(name: str) -> None:
    torch.manual_seed(0)
    model, processor = MODELS[name]()
    rows = rows_of_all_kinds()
    once = keeps_plain_keys(model)
    assert once is (name != "gemma3")
    for prompts_once in {once, False}:
        policy = Policy(model, processor, OptimizerConfig(), prompts_once=prompts_once)
        values = policy.logprobs(policy.encode(rows))
        expected = yardstick(policy, rows)
        for ours, theirs in zip(values, expected, strict=True):
            assert torch.allclose(ours[: len(theirs)], theirs, atol=2e-5)
        scale = torch.linspace(-1, 1, values.shape[1])
        loss = sum((value * scale[: len(value)]).sum() for value in expected)
        assert isinstance(loss, Tensor)
        ours_too, theirs_too = gradients(policy, (values * scale).sum()), gradients(policy, loss)
        # What no row reaches (LLaVA's last vision layer) was frozen, or ranks would wait for its gradient.
        assert ours_too.keys() == policy.trained().keys()
        largest = max(float(value.abs().max()) for value in theirs_too.values())
        assert furthest(ours_too, theirs_too) < 1e-5 * largest
        assert any(value.any() for name, value in ours_too.items() if "vis" in name or "projector" in name)


def test_prompts_without_pictures_after_prompts_with_them() -> None:
    """Qwen's model remembers the positions of the last batch."""
    torch.manual_seed(0)
    model, processor = qwen("2.5")
    policy = Policy(model, processor, OptimizerConfig())
    rows = rows_of_all_kinds()
    policy.logprobs(policy.encode(rows))
    blind = [row for row in rows if not row.prompt.images]
    for ours, theirs in zip(policy.logprobs(policy.encode(blind)), yardstick(policy, blind), strict=True):
        assert torch.allclose(ours[: len(theirs)], theirs, atol=2e-5)
