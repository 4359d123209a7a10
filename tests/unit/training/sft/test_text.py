"""Tokenizer and chat template: any text, whole tags, and the same ids everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mirl_core.bundled import DIGITS
from mirl_core.training.sft import text
from mirl_core.training.sft.rows import corpus
from mirl_core.training.sft.stage import prepare_tokenizer
from mirl_core.training.sft.trainer import train_tokenizer

MODEL = DIGITS.path


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.mark.parametrize(
    "words",
    [
        "top left red 3",
        "Grüße, 世界 😀",
        "\x00\t\n  spaces  ",
        "1234567890",
        "<think>a</think> <answer>12</answer>",
    ],
)
def test_any_text_survives(tokenizer: Tokenizer, words: str) -> None:
    assert tokenizer.decode(tokenizer.encode(words).ids, skip_special_tokens=False) == words


def test_every_digit_is_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    assert [t.strip("Ġ") for t in tokenizer.encode("10+127=137").tokens] == list("10+127=137")


@pytest.mark.parametrize("tag", text.TAGS)
def test_tags_are_single_tokens_that_stay_in_text(tokenizer: Tokenizer, tag: str) -> None:
    ids = tokenizer.encode(tag).ids
    assert len(ids) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == tag


@pytest.mark.parametrize("name", text.SPECIAL_TOKENS)
def test_special_tokens_leave_text(tokenizer: Tokenizer, name: str) -> None:
    ids = tokenizer.encode(name).ids
    assert len(ids) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""


def test_the_recipes_rebuild_the_frozen_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert prepare_tokenizer(tmp_path, (), train_tokenizer).get_vocab() == tokenizer.get_vocab()


def test_a_tokenizer_is_built_the_same_every_time() -> None:
    texts = corpus(300)
    first, again = (text.build_tokenizer(texts, 500) for _ in range(2))
    assert first.to_str() == again.to_str()
    assert first.token_to_id("<think>") is not None


def _template(messages: list[dict[str, object]], generate: bool = True) -> str:
    from transformers import AutoTokenizer

    fast = AutoTokenizer.from_pretrained(MODEL)
    return str(fast.apply_chat_template(messages, add_generation_prompt=generate, tokenize=False))


def test_the_template_takes_strings_parts_systems_and_turns() -> None:
    assert _template([{"role": "user", "content": "Hi"}]) == "<|user|>Hi<end_of_utterance><|assistant|>"
    parts = [{"type": "image"}, {"type": "text", "text": "Hi"}]
    assert _template([{"role": "user", "content": parts}], False) == "<|user|><image>Hi<end_of_utterance>"
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "<answer>1</answer>"},
        {"role": "user", "content": "And?"},
    ]
    assert _template(turns) == (
        "<|system|>Be brief.<end_of_utterance><|user|><image>Hi<end_of_utterance>"
        "<|assistant|><answer>1</answer><end_of_utterance><|user|>And?<end_of_utterance><|assistant|>"
    )


def test_without_the_image_the_prompt_is_the_same_text_minus_the_image() -> None:
    with_image = text.render_prompt("Hi", image=True)
    pictures = text.FAKE_IMAGE + text.GLOBAL_IMAGE + text.IMAGE * text.IMAGE_TOKENS + text.FAKE_IMAGE
    assert with_image.replace(pictures, "") == text.render_prompt("Hi", image=False)
    assert _template([{"role": "user", "content": "Hi"}]) == text.render_prompt("Hi", image=False)


@pytest.mark.parametrize("last", [False, True])
def test_training_ids_are_those_of_the_processor(tokenizer: Tokenizer, last: bool) -> None:
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(MODEL)
    parts = [{"type": "image"}, {"type": "text", "text": "Where is the largest digit?"}]
    messages = [{"role": "user", "content": parts[::-1] if last else parts}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    ids = processor(text=prompt, images=[Image.new("RGB", (64, 64))], return_tensors="pt")["input_ids"][
        0
    ].tolist()
    ours = text.render_prompt("Where is the largest digit?", image=True, image_last=last)
    assert ids == tokenizer.encode(ours).ids
