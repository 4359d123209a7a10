"""What a server's chat completions return, found out when it joins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mirl_core.engines.remote.checks import (
    CHECK_SECONDS,
    MAX_DIFFERENCE,
    ServedModel,
    answers_checked,
    not_raw,
)
from mirl_core.engines.remote.server import Server
from mirl_core.errors import ConfigError, RequestError

CONTINUED: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
"""Fields with which vLLM goes on with the last message in place of answering it."""
MESSAGES = [{"role": "user", "content": "Count to five."}, {"role": "assistant", "content": "1, 2, 3,"}]


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server's chat completions return beside the text and its tokens' log-probabilities."""

    token_ids: bool = True
    """The ids of prompt and answer (`return_token_ids`): vLLM since 0.10.2."""
    prompt_logprobs: bool = True
    """Log-probabilities of the prompt: vLLM."""


async def check_chat(server: Server, model: ServedModel) -> Abilities:
    """Return what the server's chat completions have.

    Raises:
        ConfigError: they have no log-probabilities, or not the model's own.
        EngineError: they have another form than OpenAI's.
    """
    plain = {
        "model": model.chat_name,
        "messages": MESSAGES,
        "max_tokens": 1,
        "logprobs": True,
        "top_logprobs": 5,
    }
    extended = plain | CONTINUED | {"return_token_ids": True, "prompt_logprobs": 0}
    with answers_checked(server, "a chat completion in another form than OpenAI's"):
        try:
            answer = await _complete(server, extended | {"temperature": 0.0})
        except RequestError:
            # Servers other than vLLM may refuse fields that they don't know.
            extended = plain
            answer = await _complete(server, plain | {"temperature": 0.0})
        abilities = Abilities(
            token_ids=bool(answer.get("prompt_token_ids")) and bool(answer["choices"][0].get("token_ids")),
            prompt_logprobs=bool(answer.get("prompt_logprobs")) and bool(answer.get("prompt_token_ids")),
        )
        likeliest = _likeliest(answer)
        # Processed log-probabilities would show this temperature.
        hot = _likeliest(await _complete(server, extended | {"temperature": 2.0}))
    if likeliest is None or hot is None:
        raise ConfigError(
            f"{server.name} returns no log-probabilities with chat completions; nothing can be chosen by them"
        )
    if likeliest > 0.01 or abs(likeliest - hot) > MAX_DIFFERENCE:
        raise not_raw(server)
    return abilities


async def _complete(server: Server, body: dict[str, Any]) -> Any:
    return await server.control("POST", "/v1/chat/completions", body, timeout=CHECK_SECONDS)


def _likeliest(answer: Any) -> float | None:
    """Return log p of the likeliest first token, nats; None without log-probabilities."""
    content = (answer["choices"][0].get("logprobs") or {}).get("content")
    if not content:
        return None
    return max(float(top["logprob"]) for top in content[0]["top_logprobs"])
