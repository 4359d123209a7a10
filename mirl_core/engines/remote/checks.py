"""What a vLLM server must be before MIRL trusts its numbers: asked when it joins, and when it comes back."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mirl_core.engines.common.placeholders import placeholder_ids
from mirl_core.engines.remote.prompt import render_request
from mirl_core.engines.remote.score import parameters, values
from mirl_core.engines.remote.server import Server
from mirl_core.errors import ConfigError, EngineError, RequestError, ServerError
from mirl_core.types import Conversation

PROBE = "<description>Two red 7s,\n née</description> <think>a + b</think>"
SECONDS = 120.0
"""A server's first tokens may wait for its compiler."""
APART = 0.5
"""Between sampling and scoring one token raw log-probabilities are within rounding; nats."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as its server presents it."""

    name: str
    root: str
    """The folder or hub name that the server loaded it from."""
    max_model_len: int


async def identify(server: Server, model: str | None) -> ServedModel:
    """The model of that name; None: the first that is served.

    Raises:
        ConfigError: it is not served there.
    """
    answer = await server.control("GET", "/v1/models")
    try:
        cards = [
            ServedModel(str(one["id"]), str(one["root"]), int(one["max_model_len"]))
            for one in answer["data"]
            # LoRA adapters and the like are listed without a length.
            if one.get("max_model_len")
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise EngineError(f"{server.url} lists its models in another form") from error
    for card in cards:
        if model in (None, card.name):
            return card
    names = ", ".join(card.name for card in cards) or "nothing"
    raise ConfigError(f"{server.url} does not serve {model}, but {names}")


async def check(server: Server, card: ServedModel, encode: Callable[[str], tuple[int, ...]]) -> None:
    """Tokens in, tokens out; the same tokenizer; raw log-probabilities. Notes what the server offers.

    Raises:
        ConfigError: it must be started otherwise.
    """
    try:
        text = {"model": card.name, "prompt": PROBE, "add_special_tokens": False}
        tokens = await server.control("POST", "/tokenize", text)
        question = Conversation(({"role": "user", "content": "Hello"},))
        body, _ = render_request(question, card.name)
        rendered = await server.ask("/v1/chat/completions/render", body)
        prompt = [int(token) for token in rendered["token_ids"]]
        # A temperature that would show in the values.
        hot = {**parameters(), "max_tokens": 8, "temperature": 2.0, "ignore_eos": True, "logprobs": 5}
        sampled = await _generate(server, card, prompt, hot)
        content = sampled["choices"][0]["logprobs"]["content"]
        ids = tuple(int(one["token_id"]) for one in content)
        scoring = parameters(prompt_logprobs=0, skip_reading_prefix_cache=True)
        scored = values(await _generate(server, card, [*prompt, *ids], scoring), ids)
        server.counts_cached = bool((sampled.get("usage") or {}).get("prompt_tokens_details"))
        mass = max(sum(math.exp(min(top["logprob"], 1.0)) for top in one["top_logprobs"]) for one in content)
        apart = max(abs(one["logprob"] - value) for one, value in zip(content, scored, strict=True))
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise EngineError(f"{server.url} answers in another form than vLLM 0.32") from error
    except RequestError as error:
        raise ConfigError(f"{server.url} can't be used: {error.message}") from error
    except ServerError as error:
        if error.status not in (401, 403, 404, 405):
            raise
        raise ConfigError(error.message) from error
    if tuple(tokens["tokens"]) != encode(PROBE):
        raise ConfigError(
            f"the tokenizer here is not that of {server.url}; name the folder of {card.name}'s own"
        )
    if mass > 1.01 or apart > APART:
        raise ConfigError(
            f"the log-probabilities of {server.url} are not the model's own; mutual information needs "
            "--logprobs-mode raw_logprobs, vLLM's default"
        )


def load_tokenizer(name: str) -> tuple[Any, frozenset[int]]:
    """The tokenizer in a folder or of a hub name, and the tokens that stand for media. Takes seconds.

    Raises:
        ConfigError: there is none.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"no tokenizer can be loaded from {name}; name the model's folder") from error
    return tokenizer, placeholder_ids(config, int(config.get_text_config().vocab_size))


async def _generate(server: Server, card: ServedModel, ids: list[int], sampling: dict[str, Any]) -> Any:
    body = {
        "request_id": f"mirl-check-{uuid.uuid4().hex}",
        "model": card.name,
        "token_ids": ids,
        "sampling_params": sampling,
    }
    return await server.control("POST", "/inference/v1/generate", body, timeout=SECONDS)
