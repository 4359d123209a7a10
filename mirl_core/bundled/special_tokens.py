"""The bundled model's special tokens: padding, turn markers, end of turn and image markers."""

from __future__ import annotations

PAD, END = "<|pad|>", "<end_of_utterance>"
IMAGE, FAKE_IMAGE, GLOBAL_IMAGE = "<image>", "<fake_token_around_image>", "<global-img>"
USER, ASSISTANT, SYSTEM = "<|user|>", "<|assistant|>", "<|system|>"
SPECIAL_TOKENS = (PAD, END, IMAGE, FAKE_IMAGE, GLOBAL_IMAGE, USER, ASSISTANT, SYSTEM)
