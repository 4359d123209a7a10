"""Checks that a vLLM server must pass, when it joins and when it comes back, before MIRL uses it."""

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
CHECK_SECONDS = 120.0
"""Longest wait for the first tokens, which may need the server's compiler."""
MAX_DIFFERENCE = 0.5
"""Largest difference of a token's log p between sampling and scoring, nats; raw values differ by rounding."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model in a server's list."""

    name: str
    root: str
    """The folder or hub name that the server loaded it from."""
    max_model_len: int


async def find_model(server: Server, model: str | None) -> ServedModel:
    """Return the served model of that name; None: the first in the server's list.

    Raises:
        ConfigError: the server does not serve it.
        EngineError: the answer is not a list of models.
    """
    answer = await server.control("GET", "/v1/models")
    try:
        served_models = [
            ServedModel(str(entry["id"]), str(entry["root"]), int(entry["max_model_len"]))
            for entry in answer["data"]
            # LoRA adapters and the like are listed without a length.
            if entry.get("max_model_len")
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise EngineError(f"{server.url} lists its models in another form") from error
    for served_model in served_models:
        if model in (None, served_model.name):
            return served_model
    names = ", ".join(served_model.name for served_model in served_models) or "nothing"
    raise ConfigError(f"{server.url} does not serve {model}, but {names}")


async def check(server: Server, model: ServedModel, encode: Callable[[str], tuple[int, ...]]) -> None:
    """Check tokens in, tokens out, the tokenizer and raw log-probabilities; set `server.counts_cached`.

    Raises:
        ConfigError: the server must be started with other flags or another model.
        EngineError: it answers in another form than vLLM.
    """
    try:
        text = {"model": model.name, "prompt": PROBE, "add_special_tokens": False}
        tokens = await server.control("POST", "/tokenize", text)
        question = Conversation(({"role": "user", "content": "Hello"},))
        body, _ = render_request(question, model.name)
        rendered = await server.ask("/v1/chat/completions/render", body)
        prompt = [int(token) for token in rendered["token_ids"]]
        # Processed log-probabilities would show this temperature.
        sampling = {**parameters(), "max_tokens": 8, "temperature": 2.0, "ignore_eos": True, "logprobs": 5}
        sampled = await _generate(server, model, prompt, sampling)
        content = sampled["choices"][0]["logprobs"]["content"]
        ids = tuple(int(position["token_id"]) for position in content)
        scoring = parameters(prompt_logprobs=0, skip_reading_prefix_cache=True)
        scored = values(await _generate(server, model, [*prompt, *ids], scoring), ids)
        server.counts_cached = bool((sampled.get("usage") or {}).get("prompt_tokens_details"))
        mass = max(
            sum(math.exp(min(top["logprob"], 1.0)) for top in position["top_logprobs"])
            for position in content
        )
        difference = max(
            abs(position["logprob"] - value) for position, value in zip(content, scored, strict=True)
        )
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
            f"the tokenizer here is not that of {server.url}; name the folder of {model.name}'s own"
        )
    if mass > 1.01 or difference > MAX_DIFFERENCE:
        raise ConfigError(
            f"the log-probabilities of {server.url} are not the model's own; mutual information needs "
            "--logprobs-mode raw_logprobs, vLLM's default"
        )


def load_tokenizer(name: str) -> tuple[Any, frozenset[int]]:
    """Load the tokenizer of a folder or hub name, and return it with the media tokens. Takes seconds.

    Raises:
        ConfigError: there is no tokenizer or no config.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"no tokenizer can be loaded from {name}; name the model's folder") from error
    return tokenizer, placeholder_ids(config, int(config.get_text_config().vocab_size))


async def _generate(server: Server, model: ServedModel, ids: list[int], sampling: dict[str, Any]) -> Any:
    body = {
        "request_id": f"mirl-check-{uuid.uuid4().hex}",
        "model": model.name,
        "token_ids": ids,
        "sampling_params": sampling,
    }
    return await server.control("POST", "/inference/v1/generate", body, timeout=CHECK_SECONDS)
