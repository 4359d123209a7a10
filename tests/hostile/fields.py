"""Every field with every wrong value, by the models that the server reads them with."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from mirl_core.config import Limits, MIRLOptions
from mirl_core.errors import RequestError
from mirl_server.apis.messages import request as messages_api
from mirl_server.apis.responses import request as responses_api
from mirl_server.handling.reading.fields import REFUSED, read_request
from mirl_server.handling.reading.request import ChatRequest
from mirl_server.settings.server import request_options
from tests.hostile.case import CHAT, DESCRIBE, DIRECT, GATED, MESSAGES, PLAIN, RESPONSES, SCORE, Cases

VALUES: tuple[Any, ...] = (
    True, False, 0, 1, -1, 3, 10**400, -(2**70), 2**64, 0.5, -0.5, 1e308, 5e-324, "", "x", "9" * 40, "\0",
    "\u202e", "x" * 3000, [], [1], ["x"], [None], [[[]]], [{}], {}, {"x": 1}, {"$ref": "#"},
    {"type": "object"},
)  # fmt: skip
"""One of every kind, and of what lies outside of most ranges. A null is as good as nothing."""


def wrong(field: str) -> Iterator[Any]:
    """The values that a gated chat completion can't take."""
    text = {"messages": [{"role": "user", "content": "x"}], "stream": True, "logprobs": True}
    for value in VALUES:
        try:
            read_request(text | {field: value})
        except RequestError:
            yield value


def wrong_fields() -> Cases:
    """Fields of the gated APIs; those that they share are read by one model."""
    for field in (*ChatRequest.model_fields, *REFUSED):
        if field in ("request_id", "messages", "stream"):
            continue
        for value in wrong(field):
            body = CHAT.body() | {field: value}
            yield CHAT.case("wrong fields", f"{field} = {_short(value)}", body)
    named = ((RESPONSES, responses_api.FIELDS), (MESSAGES, messages_api.FIELDS))
    for target, fields in named:
        for own, field in {**{name: name for name in fields.same}, **fields.renamed}.items():
            if field not in ("request_id", "stream"):
                for value in random.Random(field).sample(list(wrong(field)), k=5):
                    yield target.case(
                        "wrong fields", f"{own} = {_short(value)}", target.body() | {own: value}
                    )
        for field in fields.refused:
            yield target.case("wrong fields", f"{field} = 'x'", target.body() | {field: "x"})
    for target in GATED:
        for field in ("frob", "Messages", "model ", "$where", "__proto__", "mirl.keep", "x" * 5000, "\ud83d"):
            yield target.case("wrong fields", f"unknown {_short(field)}", target.body() | {field: 1})
    for value in VALUES:
        if not (isinstance(value, list) and value == ["x"]):
            yield SCORE.case(
                "wrong fields", f"descriptions = {_short(value)}", SCORE.body(descriptions=value)
            )
    for name in ("stream", "n", "stop", "response_format", "logprobs"):
        yield DESCRIBE.case("wrong fields", f"{name} of answers", DESCRIBE.body() | {name: 1})
    yield SCORE.case("wrong fields", "33 descriptions", SCORE.body(descriptions=["x"] * 33))
    yield SCORE.case("wrong fields", "long descriptions", SCORE.body(descriptions=["a seven " * 20_000]))


def models() -> Cases:
    """Names that are not served."""
    for target in (*GATED, *PLAIN):
        for name in (
            "gpt-4", "mirl-tiny:other", "mirl-tiny:direct:direct", ":direct", "../../etc/passwd",
            "x" * 10_000,
            "mirl-tiny\n", " mirl-tiny", "\0", "MIRL-TINY", "\u202emirl-tiny", "{{7*7}}", "%00",
        ):  # fmt: skip
            yield target.case("models", _short(name), target.body() | {"model": name})


def plain_fields() -> Cases:
    """vLLM's own reading of every field: it takes much that OpenAI would not, but is never at a loss."""
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    read_by = {
        "/v1/chat/completions": ChatCompletionRequest, "/v1/responses": ResponsesRequest,
        "/v1/messages": AnthropicMessagesRequest,
    }  # fmt: skip
    for target in PLAIN:
        for field in read_by[target.path].model_fields:
            # Answers must stay short; and ids of one's own are refused where they are in use.
            if field in ("max_tokens", "max_completion_tokens", "max_output_tokens", "request_id"):
                continue
            for value in VALUES:
                body = target.body() | {field: value}
                yield target.case("vLLM's own fields", f"{field} = {_short(value)}", body, harmless=True)


def knobs() -> Cases:
    """MIRL's own fields: of other types, out of range, over the operator's limits."""
    limits, defaults = Limits(), MIRLOptions()
    for field in (*MIRLOptions.model_fields, "kep", "__class__"):
        for value in (*VALUES, 10**6, 33, 65537, "nan", None):
            try:
                request_options({field: value}, defaults, limits)
            except RequestError:
                for target in (CHAT, DIRECT) if value in (33, "x") else (CHAT,):
                    body = target.body() | {"mirl": {field: value}}
                    yield target.case("knobs", f"{field} = {_short(value)}", body)
    for value in VALUES:
        if not isinstance(value, dict):
            yield CHAT.case("knobs", f"mirl = {_short(value)}", CHAT.body() | {"mirl": value})


def templates() -> Cases:
    """Arguments of the chat template that would change what is rendered."""
    code = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    for target in (CHAT, RESPONSES, MESSAGES, DESCRIBE):
        for field in (
            "chat_template",
            "tokenize",
            "tools",
            "add_generation_prompt",
            "continue_final_message",
        ):
            extra = {"chat_template_kwargs": {field: code}}
            yield target.case("templates", f"{field} as an argument", target.body() | extra)
        for value in (3, "x", [1], True):
            extra = {"chat_template_kwargs": value}  # type: ignore[dict-item]
            yield target.case("templates", f"arguments = {value!r}", target.body() | extra)
    yield CHAT.case("templates", "a template of one's own", CHAT.body() | {"chat_template": code})
    for field in ("chat_template", "tools", "conversation", "messages", "raise_exception", "self"):
        extra = {"chat_template_kwargs": {field: code}}
        yield DIRECT.case("templates", f"{field} as an argument", DIRECT.body() | extra, harmless=True)
    extra = {
        "chat_template": "{% for a in range(10**9) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}"
    }
    yield DIRECT.case("templates", "a template of one's own that never ends", DIRECT.body() | extra)


def mutated_bodies() -> Cases:
    """A good request with one value, anywhere in it, of another kind."""
    for seed, target in enumerate((*GATED, *PLAIN)):
        chance = random.Random(seed)
        for number in range(60):
            body = copy.deepcopy(target.body())
            places = list(_places(body))
            holder, key = chance.choice(places)
            holder[key] = chance.choice((None, *VALUES))
            yield target.case("mutated values", f"no. {number}, {key!r}", body, harmless=True)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield node, key
        yield from _places(value)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}… ({len(text)})"
