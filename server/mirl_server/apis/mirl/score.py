"""POST /v1/mirl/score: the mutual information of given descriptions with an image.

Useful without the pipeline, as a check for hallucinations: a description that says no more than what the
model would expect unseen has an MI (λ = 1) near zero. `mi_weight: "auto"` takes λ from all descriptions of
the call, so that an MI then depends on what else the call brings; the response says which λ it was.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from mirl_core.algorithm.mi.estimators import make_estimator
from mirl_core.algorithm.mi.pointwise import token_mi
from mirl_core.algorithm.mi.scoring import image_free_logprobs, resolve_weight
from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import RequestError, RequestTooLargeError
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation
from mirl_server.access.authentication import caller_of
from mirl_server.apis.mirl.image_calls import answered, read_asked
from mirl_server.apis.openapi import ASKING, ScoreAnswer, an_object, documented, json_body
from mirl_server.handling.requests import read_conversation, request_example, request_schema
from mirl_server.handling.service import Service, request_context
from mirl_server.handling.streaming import unless_gone
from mirl_server.observability.request_observer import RequestObserver
from mirl_server.settings.server import request_options

router = APIRouter()

TAKEN = ("model", "messages", "mirl", "chat_template_kwargs", "cache_salt", "priority", "request_id", "user")


def _schema() -> dict[str, Any]:
    chat = request_schema()["properties"]
    texts = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
    shared = {name: chat[name] for name in TAKEN if name in chat}
    return an_object(["messages", "descriptions"], **shared, descriptions=texts)


def _example() -> dict[str, Any]:
    messages = request_example()["messages"]
    return {"messages": messages, "descriptions": ["a red square", "a green circle"]}


@router.post(
    "/v1/mirl/score",
    response_class=Response,
    responses=documented(ScoreAnswer, ASKING),
    openapi_extra=json_body(_schema(), _example()),
)
async def score(request: Request) -> Response:
    """Score descriptions of an image: nats under the model, with the image and without."""
    return await answered("score", request, _score)


async def _score(
    service: Service, request: Request, body: dict[str, Any], watch: RequestObserver
) -> dict[str, Any]:
    texts = _descriptions(body.pop("descriptions", None), service)
    asked = read_asked(service, body, TAKEN)
    pipeline = service.engine_pipeline()
    options = request_options(asked.mirl, service.options, service.settings.limits)
    service.check_priority(asked.priority)
    conversation = await unless_gone(request.receive, read_conversation(asked, service.images))
    context = request_context(request, asked.request_id, asked.cache_salt, asked.priority or 0)
    pipeline = watch.begin(pipeline, asked.model or service.names[0], options, None, context)
    contents = [pipeline.engine.encode(text) for text in texts]
    tokens = sum(map(len, contents))
    if tokens > service.settings.limits.max_total_tokens:
        raise RequestTooLargeError(
            f"the descriptions have {tokens} tokens; this server scores at most "
            f"{service.settings.limits.max_total_tokens}",
            param="descriptions",
        )

    async def admitted() -> tuple[int, list[tuple[float, ...]], list[tuple[float, ...]]]:
        # Nothing is sampled: every description is read twice.
        async with service.admit(caller_of(request), 2 * len(contents)):
            return await _both_terms(pipeline, conversation, contents, options, context)

    prompt_tokens, seen, unseen = await unless_gone(request.receive, admitted())
    # `auto` goes by the descriptions of this call, as it goes by those of a gated request.
    weight = resolve_weight(options.mi_weight, list(zip(seen, unseen, strict=True)))
    data = []
    for index, (text, logprobs, marginal) in enumerate(zip(texts, seen, unseen, strict=True)):
        per_token = token_mi(logprobs, marginal, weight, options.clip)
        told = {
            "index": index,
            "text": text,
            "tokens": len(logprobs),
            "logprob": sum(logprobs),
            "marginal": sum(marginal),
            "mi": float(per_token.sum()),
            "mi_per_token": float(per_token.mean()),
        }
        data.append(told | ({"token_mi": [float(one) for one in per_token]} if options.token_mi else {}))
    model = asked.model or service.names[0]
    usage = {"prompt_tokens": prompt_tokens, "scored_tokens": 2 * tokens, "completion_tokens": 0}
    return {"object": "mirl.score", "model": model, "mi_weight": weight, "data": data, "usage": usage}


async def _both_terms(
    pipeline: Pipeline,
    conversation: Conversation,
    contents: list[tuple[int, ...]],
    options: MIRLOptions,
    context: RequestContext,
) -> tuple[int, list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Length of the prompt, then log p of every token with the image and without; nats."""
    engine = pipeline.engine
    opening = engine.encode(pipeline.settings.tags.description[0])
    prompt = conversation.with_instruction(pipeline.settings.instruction)
    estimator = make_estimator(options.estimator, pipeline.references)
    rendered = await engine.render(prompt, context)
    with_image = replace(context, request_id=f"{context.request_id}-seen")
    without = replace(context, request_id=f"{context.request_id}-unseen")
    seen, unseen = await asyncio.gather(
        engine.score(rendered, [(*opening, *content) for content in contents], with_image),
        image_free_logprobs(engine, estimator, prompt, opening, contents, without),
    )
    return rendered.prompt_tokens, [one[len(opening) :] for one in seen], unseen


def _descriptions(given: object, service: Service) -> list[str]:
    most = service.settings.limits.max_descriptions
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise RequestError("descriptions must be a list of texts", param="descriptions")
    if len(given) > most:
        raise RequestError(f"descriptions has {len(given)} texts; at most {most}", param="descriptions")
    for index, text in enumerate(given):
        if not text.strip():
            raise RequestError("a description can't be empty", param=f"descriptions[{index}]")
    return given
