"""`POST /v1/mirl/score`: the mutual information of the request's descriptions with an image.

Useful without the pipeline, as a check for hallucinations: a description that the model would expect without
the image has an MI (λ = 1) near zero. `mi_weight: "auto"` derives λ from all descriptions of the call, so
that an MI then depends on the other descriptions; the response carries λ.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from mirl_core.algorithm.budget import scored_tokens
from mirl_core.algorithm.mi.estimators import ESTIMATORS, make_estimator
from mirl_core.algorithm.mi.pointwise import token_mi
from mirl_core.algorithm.mi.scoring import image_free_logprobs, resolve_weight
from mirl_core.algorithm.token_texts import token_texts
from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.errors import RequestError, RequestTooLargeError
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation
from mirl_server.access.authentication import caller_of
from mirl_server.apis.mirl.image_calls import answer_call, read_image_request
from mirl_server.apis.openapi import MODEL_ERRORS, ScoreAnswer, documented, json_body
from mirl_server.handling.context import request_context
from mirl_server.handling.reading.conversation import read_conversation
from mirl_server.handling.reading.json_schema import object_schema
from mirl_server.handling.reading.openapi import request_example, request_schema
from mirl_server.handling.service import Service
from mirl_server.handling.streaming import unless_gone
from mirl_server.observability.request_observer import RequestObserver
from mirl_server.settings.server import request_options

router = APIRouter()

FIELDS = ("model", "messages", "mirl", "chat_template_kwargs", "cache_salt", "priority", "request_id", "user")


def _schema() -> dict[str, Any]:
    chat = request_schema()
    texts = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
    shared = {name: chat["properties"][name] for name in FIELDS if name in chat["properties"]}
    schema = object_schema(["messages", "descriptions"], **shared, descriptions=texts)
    return schema | {"$defs": chat["$defs"]}


def _example() -> dict[str, Any]:
    messages = request_example()["messages"]
    return {"messages": messages, "descriptions": ["a red square", "a green circle"]}


@router.post(
    "/v1/mirl/score",
    response_class=Response,
    responses=documented(ScoreAnswer, MODEL_ERRORS),
    openapi_extra=json_body(_schema(), _example()),
)
async def score(request: Request) -> Response:
    """Score descriptions of an image: nats under the model, with the image and without."""
    return await answer_call("score", request, _score)


async def _score(
    service: Service, http_request: Request, body: dict[str, Any], observer: RequestObserver
) -> dict[str, Any]:
    texts = _descriptions(body.pop("descriptions", None), service)
    request = read_image_request(service, body, FIELDS)
    pipeline = service.engine_pipeline()
    options = request_options(request.mirl, service.options, service.settings.limits)
    service.check_priority(request.priority)
    conversation = await unless_gone(http_request.receive, read_conversation(request, service.images))
    context = request_context(http_request, request)
    model = service.response_name(request.model)
    pipeline = observer.begin(pipeline, model, options, None, context)
    opening = pipeline.engine.encode(pipeline.settings.tags.description[0])
    contents = [pipeline.engine.encode(text) for text in texts]
    tokens = sum(map(len, contents))
    if tokens > service.settings.limits.max_total_tokens:
        raise RequestTooLargeError(
            f"the descriptions have {tokens} tokens; this server scores at most "
            f"{service.settings.limits.max_total_tokens}",
            param="descriptions",
        )

    # With the image, and without it as often as the estimator needs. Nothing is sampled.
    passes = 1 + ESTIMATORS[options.estimator].passes(len(pipeline.references))

    async def admitted() -> tuple[int, list[tuple[float, ...]], list[tuple[float, ...]]]:
        async with service.admit(caller_of(http_request), passes * len(contents)):
            return await _both_terms(pipeline, conversation, opening, contents, options, context)

    prompt_tokens, seen, unseen = await unless_gone(http_request.receive, admitted())
    # `auto` depends on the descriptions of this call, as it depends on those of a gated request.
    weight = resolve_weight(options.mi_weight, list(zip(seen, unseen, strict=True)))
    data = []
    for index, (text, logprobs, marginal) in enumerate(zip(texts, seen, unseen, strict=True)):
        per_token = token_mi(logprobs, marginal, weight, options.clip)
        entry: dict[str, Any] = {
            "index": index,
            "text": text,
            "tokens": len(logprobs),
            "logprob": sum(logprobs),
            "marginal": sum(marginal),
            "mi": float(per_token.sum()),
            "mi_per_token": float(per_token.mean()),
        }
        if options.token_mi:
            entry["token_mi"] = [float(value) for value in per_token]
            entry["token_pmi"] = [float(value) for value in token_mi(logprobs, marginal, 1.0, None)]
            entry["token_texts"] = token_texts(contents[index], 0, pipeline.engine.decode)
        data.append(entry)
    scored = scored_tokens(passes, len(opening), map(len, contents))
    usage = {"prompt_tokens": prompt_tokens, "scored_tokens": scored, "completion_tokens": 0}
    return {"object": "mirl.score", "model": model, "mi_weight": weight, "data": data, "usage": usage}


async def _both_terms(
    pipeline: Pipeline,
    conversation: Conversation,
    opening: tuple[int, ...],
    contents: list[tuple[int, ...]],
    options: MIRLOptions,
    context: RequestContext,
) -> tuple[int, list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Return the prompt's tokens, then log p of every token with the image and without it, in nats."""
    engine = pipeline.engine
    prompt = conversation.with_instruction(pipeline.settings.instruction)
    estimator = make_estimator(options.estimator, pipeline.references)
    rendered = await engine.render(prompt, context)
    with_image = replace(context, request_id=f"{context.request_id}-seen")
    without = replace(context, request_id=f"{context.request_id}-unseen")
    seen, unseen = await asyncio.gather(
        engine.score(rendered, [(*opening, *content) for content in contents], with_image),
        image_free_logprobs(engine, estimator, prompt, opening, contents, without),
    )
    return rendered.prompt_tokens, [logprobs[len(opening) :] for logprobs in seen], unseen


def _descriptions(texts: object, service: Service) -> list[str]:
    most = service.settings.limits.max_descriptions
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RequestError("descriptions must be a list of texts", param="descriptions")
    if len(texts) > most:
        raise RequestError(f"descriptions has {len(texts)} texts; at most {most}", param="descriptions")
    for index, text in enumerate(texts):
        if not text.strip():
            raise RequestError("a description can't be empty", param=f"descriptions[{index}]")
    return texts
