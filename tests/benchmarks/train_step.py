"""Time, memory and utilisation of training steps on a Qwen2.5-VL of random weights.

    python tests/benchmarks/train_step.py --device cuda --size 3b --dtype bfloat16 --recompute
    python tests/benchmarks/train_step.py --device cuda --size 7b --dtype bfloat16 --recompute --lora 16
    python tests/benchmarks/train_step.py --device cpu --size tiny --image 56

Needs torch, transformers, accelerate, pydantic and Pillow (peft with --lora); no weights, no network. Prints
one JSON line a step, then one of medians over the steps after the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from PIL import Image

from mirl_core.training.rl.model.policy import Policy
from mirl_core.training.rl.model.trainer import Trainer
from mirl_core.training.rl.planners.rows import TrainingRow
from mirl_core.training.rl.recipe.config import OptimizerConfig
from mirl_core.types import Conversation
from tests.fixtures.patches import IMAGE, START, PatchProcessor

SIZES: dict[str, dict[str, Any]] = {
    # Published shapes of Qwen2.5-VL; `tiny` is for the CPU.
    "tiny": {
        "text": (700, 32, 48, 2, 4, 2),
        "vision": (16, 32, 2, 2),
        "tied": True,
    },
    "3b": {"text": (151936, 2048, 11008, 36, 16, 2), "vision": (1280, 3420, 32, 16), "tied": True},
    "7b": {"text": (152064, 3584, 18944, 28, 28, 4), "vision": (1280, 3420, 32, 16), "tied": False},
}


def build(size: str, device: str, dtype: torch.dtype) -> Any:
    """A Qwen2.5-VL of this size, made on its device."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vocabulary, width, inner, layers, heads, shared = SIZES[size]["text"]
    vision_width, vision_inner, depth, vision_heads = SIZES[size]["vision"]
    half = width // heads // 2
    rope = {"rope_type": "default", "rope_theta": 1e6}
    rope["mrope_section"] = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]  # type: ignore[assignment]
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": shared,
            "rope_parameters": rope,
            "tie_word_embeddings": SIZES[size]["tied"],
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": vision_inner,
            "depth": depth,
            "num_heads": vision_heads,
            "out_hidden_size": width,
            "fullatt_block_indexes": [depth - 1],
        },
        image_token_id=IMAGE,
        video_token_id=8,
        vision_start_token_id=START,
        tie_word_embeddings=SIZES[size]["tied"],
    )
    config.dtype = dtype
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype)


def make_rows(prompts: int, rows: int, image: int, length: int, vocabulary: int) -> list[TrainingRow]:
    """For each prompt an image of image x image pixels, and descriptions and chains, these twice as long."""
    random = torch.Generator().manual_seed(0)
    made = []
    for place in range(prompts):
        picture = {"type": "image", "image": Image.new("RGB", (image, image))}
        text = {"type": "text", "text": f"what is there {place}"}
        prompt = Conversation(({"role": "user", "content": [picture, text]},))
        for number in range(rows):
            count = length * (1 + number % 2)
            ids = torch.randint(50, vocabulary, (count,), generator=random).tolist()
            made.append(
                TrainingRow(
                    prompt,
                    tuple(ids),
                    (False,) + (True,) * (count - 1),
                    (-10.0,) * count,
                    1.0 if number % 4 < 2 else -1.0,
                    "reasoning" if number % 2 else "description",
                    f"{place}/{number % 2}",
                )
            )
    return made


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing")
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; 0: all weights are trained")
    parser.add_argument("--rows-whole", action="store_true", help="run every row with its own prompt")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--rows", type=int, default=16, help="rows a prompt")
    parser.add_argument("--image", type=int, default=560, help="side of the image, pixels: 560 is 400 tokens")
    parser.add_argument("--length", type=int, default=128, help="tokens of a description; a chain has twice")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, print, and return the medians."""
    options = parse(arguments)
    settings = OptimizerConfig(
        dtype=options.dtype,
        activation_checkpointing=options.recompute,
        lora={"rank": options.lora} if options.lora else None,  # type: ignore[arg-type]
        accumulate=options.accumulate,
    )
    half = options.dtype == "bfloat16" and options.lora > 0
    model = build(options.size, options.device, torch.bfloat16 if half else torch.float32)
    processor = PatchProcessor(True, lambda patches: patches // 4)
    policy = Policy(model, processor, settings, prompts_once=False if options.rows_whole else None)
    trainer = Trainer(policy, settings, options.steps)
    vocabulary = SIZES[options.size]["text"][0]
    rows = make_rows(options.prompts, options.rows, options.image, options.length, vocabulary)
    names = ("loss", "grad_norm", "tokens/read", "tokens/trained", "seconds/train", "memory/peak", "mfu")
    lines = []
    for _ in range(options.steps):
        metrics = trainer.step(rows)
        lines.append({name: metrics[name] for name in names if name in metrics})
        print(json.dumps(lines[-1]), flush=True)
    later = lines[1:] or lines
    cuda = policy.device.type == "cuda"
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "size": options.size,
        "parameters": sum(value.numel() for value in model.parameters()),
        "trained": sum(value.numel() for value in policy.trained().values()),
        **{name: statistics.median(line[name] for line in later) for name in later[0]},
    }
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    main()
