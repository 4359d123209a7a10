"""The bundled model: a small Idefics3, its export, and a training forward that computes every image once.

`ModelForward` equals transformers' own forward on full 64 x 64 images (a test checks it) without its
per-image loops.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from mirl_core.training.sft import text

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import Idefics3ForConditionalGeneration


class ModelShape(BaseModel):
    """Sizes of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text_width: int = 160
    """Hidden size of the language model; heads are 32 wide."""
    text_layers: int = 4
    """Layers of the language model."""
    text_inner: int = 448
    """Inner size of the language model's gated MLP."""
    vision_width: int = 128
    """Hidden size of the vision tower; heads are 32 wide."""
    vision_layers: int = 4
    """Layers of the vision tower."""
    vision_inner: int = 512
    """Inner size of the vision tower's MLP."""
    context: int = 2048
    """Longest sequence, in tokens."""


def build_model(shape: ModelShape, tokenizer: Tokenizer, seed: int = 0) -> Idefics3ForConditionalGeneration:
    """Build the model with fresh weights, in float32."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    ids = {name: tokenizer.token_to_id(name) for name in (*text.SPECIAL_TOKENS, *text.TAGS)}
    config = Idefics3Config(
        vision_config={
            "hidden_size": shape.vision_width,
            "intermediate_size": shape.vision_inner,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.vision_width // 32,
            "image_size": 64,
            "patch_size": 8,
            "initializer_range": 0.05,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": shape.text_width,
            "intermediate_size": shape.text_inner,
            "num_hidden_layers": shape.text_layers,
            "num_attention_heads": shape.text_width // 32,
            "num_key_value_heads": shape.text_width // 32,
            "head_dim": 32,
            "max_position_embeddings": shape.context,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids[text.END],
            "pad_token_id": ids[text.PAD],
            "initializer_range": 0.05,
        },
        scale_factor=2,
        image_token_id=ids[text.IMAGE],
        tie_word_embeddings=True,
        pad_token_id=ids[text.PAD],
        bos_token_id=None,
        eos_token_id=ids[text.END],
    )
    torch.manual_seed(seed)
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids[text.END]
    model.generation_config.pad_token_id = ids[text.PAD]
    model.generation_config.bos_token_id = None
    model.generation_config.suppress_tokens = [
        ids[t]
        for t in (
            text.PAD,
            text.IMAGE,
            text.FAKE_IMAGE,
            text.GLOBAL_IMAGE,
            text.USER,
            text.ASSISTANT,
            text.SYSTEM,
        )
    ]
    return model


class ModelForward(nn.Module):
    """Forward passes over the model's own modules."""

    def __init__(self, model: Idefics3ForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map [n, 3, 64, 64] in -1..1 to [n, 64, vision width], patches in reading order."""
        tower = self.model.model.vision_model
        hidden = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        hidden = hidden + tower.embeddings.position_embedding.weight
        for layer in tower.encoder.layers:
            hidden = layer(hidden, None)
        return torch.as_tensor(tower.post_layernorm(hidden))

    def connect(self, features: torch.Tensor) -> torch.Tensor:
        """Map [n, 64, vision width] to [n, 16, text width], the embeddings of the image tokens."""
        return torch.as_tensor(self.model.model.connector(features))

    def speak(
        self, ids: torch.Tensor, pictures: torch.Tensor | None, owner: torch.Tensor | None
    ) -> torch.Tensor:
        """Return hidden states of the language model: [rows, length, text width].

        `pictures` [n, 16, text width] replace the image tokens; `owner` [rows] is each row's picture, -1 for
        none. Rows are padded on the right, so they need only a causal mask.
        """
        inner = self.model.model.text_model
        embedded = inner.embed_tokens(ids)
        if pictures is not None and owner is not None:
            at = ids == self.model.config.image_token_id
            with_image = owner[owner >= 0]
            flat = pictures[with_image].reshape(-1, pictures.shape[-1])
            embedded = embedded.masked_scatter(at.unsqueeze(-1), flat)
        return torch.as_tensor(inner(inputs_embeds=embedded, use_cache=False).last_hidden_state)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map [..., text width] to [..., vocabulary]."""
        return torch.as_tensor(self.model.lm_head(hidden))


class TrainingForward(ModelForward):
    """The digits model's forward passes, with auxiliary heads that are not exported.

    The heads read mean-pooled vision features: per cell (digit or empty, colour) and over the picture
    (easy-VQA's shape and colour).
    """

    def __init__(self, model: Idefics3ForConditionalGeneration) -> None:
        super().__init__(model)
        width = model.config.vision_config.hidden_size
        self.cell_digit = nn.Linear(4 * width, 11)
        self.cell_colour = nn.Linear(4 * width, 4)
        self.shape = nn.Linear(4 * width, 3)
        self.shape_colour = nn.Linear(4 * width, 8)
        self.aux_norm = nn.LayerNorm(width)
        self.cell_name = nn.Linear(model.config.text_config.hidden_size, 4)

    def read_cells(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map [n, 64, width] to digit logits [n, 4 cells, 11] (10 is "empty") and colour logits [n, 4 cells,
        4]."""
        n = len(features)
        pooled = self._pool(features)  # [n, 4, 4, width]
        cells = pooled.view(n, 2, 2, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, -1)
        return self.cell_digit(cells), self.cell_colour(cells)

    def read_shape(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map [n, 64, width] to shape logits [n, 3] and colour logits [n, 8] of an easy-VQA picture."""
        n = len(features)
        pooled = self._pool(features).view(n, 2, 2, 2, 2, -1).mean((2, 4)).reshape(n, -1)
        return self.shape(pooled), self.shape_colour(pooled)

    def _pool(self, features: torch.Tensor) -> torch.Tensor:
        """Return means of 2 x 2 patches: [n, 4, 4, width]."""
        n = len(features)
        return torch.as_tensor(self.aux_norm(features).view(n, 4, 2, 4, 2, -1).mean((2, 4)))

    def read_words(
        self, connected: torch.Tensor, digit_ids: torch.Tensor, colour_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read image tokens as words, by their similarity to the words' embeddings.

        [n, 16, text width] -> logits of `digit_ids` [n, 4 cells, 2 tokens, ...], of `colour_ids` at the
        other two tokens of each cell, and of the cell itself at every token [n, 4 cells, 4 tokens, 4].
        """
        n = len(connected)
        cells = connected.view(n, 2, 2, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, -1)
        words = self.model.model.text_model.embed_tokens.weight.detach()
        # A token that equals a word's embedding gives it about 8 nats over an unrelated word.
        sharpness = 8.0 / words.square().sum(1).mean()
        digit = cells[:, :, 1:3] @ words[digit_ids].T * sharpness
        colour = cells[:, :, 0::3] @ words[colour_ids].T * sharpness
        return digit, colour, self.cell_name(cells)


def preprocess(pixels: Any) -> torch.Tensor:
    """Map uint8 [n, 64, 64, 3] to float [n, 3, 64, 64] in -1..1, as the exported image processor does."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def export(model: Idefics3ForConditionalGeneration, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the Hugging Face folder that vLLM and transformers load: bfloat16 weights, tokenizer, template,
    processor."""
    import copy

    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.config.dtype = torch.bfloat16
    half.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=text.END,
        pad_token=text.PAD,
        additional_special_tokens=[t for t in text.SPECIAL_TOKENS if t not in (text.END, text.PAD)],
        model_max_length=model.config.text_config.max_position_embeddings,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
    settings = {
        "image_processor_type": "Idefics3ImageProcessor",
        "processor_class": "Idefics3Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": 64},
        "max_image_size": {"longest_edge": 64},
        "do_image_splitting": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_pad": True,
        "resample": 1,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": "Idefics3Processor", "image_seq_len": text.IMAGE_TOKENS}, indent=2)
        + "\n"
    )
    (folder / "chat_template.jinja").write_text(text.CHAT_TEMPLATE)
