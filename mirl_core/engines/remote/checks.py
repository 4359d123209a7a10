"""Checks that a vLLM server must pass, when it joins and when it comes back, before MIRL uses it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mirl_core.config import DIRECT
from mirl_core.engines.common.placeholders import placeholder_ids
from mirl_core.engines.remote.prompt import render_request
from mirl_core.engines.remote.server import Server
from mirl_core.engines.remote.tokens.score import parameters, values
from mirl_core.engines.vllm_versions import SUPPORTED, is_supported
from mirl_core.errors import ConfigError, EngineError, ModelNotFoundError, RequestError, ServerError
from mirl_core.types import Conversation

UNKNOWN_LENGTH = 1 << 20
"""Tokens of a prompt plus completion that are assumed of a server that doesn't list its limit."""
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
    chat_name: str = ""
    """Its name in chat completions: of a MIRL server, the one that answers without the gate."""


async def find_model(server: Server, model: str | None, *, any_length: bool = False) -> ServedModel:
    """Return the served model of that name; None: the first in the server's list.

    Args:
        any_length: whether the list may leave out how long prompts may be, as servers other than vLLM do.

    Raises:
        ConfigError: the server does not serve it.
        EngineError: the answer is not a list of models.
    """
    answer = await server.control("GET", "/v1/models")
    try:
        served_models = [
            ServedModel(
                str(entry["id"]),
                str(entry.get("root") or entry["id"]),
                int(entry.get("max_model_len") or UNKNOWN_LENGTH),
            )
            for entry in answer["data"]
            # LoRA adapters and the like are listed without a length.
            if entry.get("max_model_len") or (any_length and not entry.get("parent"))
        ]
        listed = {str(entry["id"]) for entry in answer["data"]}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise EngineError(f"{server.name} lists its models in another form") from error
    for served_model in served_models:
        if model in (None, served_model.name):
            direct = f"{served_model.name}{DIRECT}"
            return replace(served_model, chat_name=direct if direct in listed else served_model.name)
    names = ", ".join(served_model.name for served_model in served_models) or "nothing"
    raise ConfigError(f"{server.name} does not serve {model}, but {names}")


async def read_version(server: Server) -> str | None:
    """Return the version of vLLM that the server runs; None if it is another server."""
    try:
        answer = await server.control("GET", "/version")
        return str(answer["version"])
    except (RequestError, TypeError, KeyError):
        return None
    except ServerError as error:
        if error.status is None or error.status >= 500:
            raise
        return None


def check_version(server: Server) -> None:
    """Check that the token routes of the server's vLLM are known.

    Raises:
        ConfigError: they are of a version that MIRL doesn't support.
    """
    version = server.vllm_version
    if version is not None and not is_supported(version):
        raise ConfigError(
            f"{server.name} runs vLLM {version}; MIRL supports {' and '.join(SUPPORTED)}: run one of them, "
            "or use the servers in chat mode"
        )


async def has_token_routes(server: Server) -> bool:
    """Return whether the server was started with `--enable-scale-out`."""
    try:
        await server.control("POST", "/inference/v1/generate", {})
    except ModelNotFoundError:
        return False
    except RequestError:
        # The route is there, and misses the request's fields.
        return True
    except ServerError as error:
        if error.status is None or error.status >= 500:
            raise
        return False
    return True


async def check(server: Server, model: ServedModel, encode: Callable[[str], tuple[int, ...]]) -> None:
    """Check tokens in, tokens out, the tokenizer and raw log-probabilities; set `server.counts_cached`.

    Raises:
        ConfigError: the server must be started with other flags or another model.
        EngineError: it answers in another form than vLLM.
    """
    with answers_checked(server, "in another form than vLLM 0.32"):
        text = {"model": model.name, "prompt": PROBE, "add_special_tokens": False}
        tokens = await server.control("POST", "/tokenize", text)
        question = Conversation(({"role": "user", "content": "Hello"},))
        body = render_request(question, model.name).body
        rendered = await server.control("POST", "/v1/chat/completions/render", body)
        prompt = [int(token) for token in rendered["token_ids"]]
        # Processed log-probabilities would show this temperature.
        sampling = {**parameters(), "max_tokens": 8, "temperature": 2.0, "ignore_eos": True, "logprobs": 5}
        sampled = await generate(server, model, prompt, sampling)
        content = sampled["choices"][0]["logprobs"]["content"]
        ids = tuple(int(position["token_id"]) for position in content)
        scoring = parameters(prompt_logprobs=0, skip_reading_prefix_cache=True)
        scored = values(await generate(server, model, [*prompt, *ids], scoring), ids)
        server.counts_cached = bool((sampled.get("usage") or {}).get("prompt_tokens_details"))
        mass = max(
            sum(math.exp(min(top["logprob"], 1.0)) for top in position["top_logprobs"])
            for position in content
        )
        difference = max(
            abs(position["logprob"] - value) for position, value in zip(content, scored, strict=True)
        )
    if tuple(tokens["tokens"]) != encode(PROBE):
        raise ConfigError(
            f"the tokenizer here is not that of {server.name}; name the folder of {model.name}'s own"
        )
    if mass > 1.01 or difference > MAX_DIFFERENCE:
        raise not_raw(server)


@contextmanager
def answers_checked(server: Server, wrong: str) -> Iterator[None]:
    """Translate what goes wrong with a check's requests, and with reading their answers.

    Args:
        wrong: how the server answers where the block can't read an answer; ends the message.

    Raises:
        ConfigError: the server refuses a request, or doesn't have its route.
        EngineError: an answer has another form.
    """
    try:
        yield
    except (TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
        raise EngineError(f"{server.name} answers {wrong}") from error
    except RequestError as error:
        raise ConfigError(f"{server.name} can't be used: {error.message}") from error
    except ServerError as error:
        if error.status not in (401, 403, 404, 405):
            raise
        raise ConfigError(error.message) from error


def not_raw(server: Server) -> ConfigError:
    """Return the error for a server whose log-probabilities are not the model's own."""
    return ConfigError(
        f"the log-probabilities of {server.name} are not the model's own; mutual information needs "
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


async def generate(
    server: Server,
    model: ServedModel,
    ids: Sequence[int],
    sampling: Mapping[str, Any],
    seconds: float = CHECK_SECONDS,
) -> Any:
    """Return the answer to a request for tokens that is no user's."""
    body = {
        "request_id": f"mirl-check-{uuid.uuid4().hex}",
        "model": model.name,
        "token_ids": list(ids),
        "sampling_params": sampling,
    }
    return await server.control("POST", "/inference/v1/generate", body, timeout=seconds)
