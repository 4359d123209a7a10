"""`GET /v1/models` and `/v1/models/{id}`: every served name twice, gated and `:direct`, and the adapters."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from mirl_core.config import DIRECT
from mirl_core.errors import MIRLError, ModelNotFoundError
from mirl_server.apis.openapi import GET_ERRORS, MODEL_ERRORS, ServedModel, ServedModels, documented
from mirl_server.handling.service import Service, service_of
from mirl_server.http.errors import error_response
from mirl_server.observability.request_observer import refuse

router = APIRouter()


@router.head("/v1/models", include_in_schema=False)
@router.get("/v1/models", response_class=Response, responses=documented(ServedModels, GET_ERRORS))
async def list_models(request: Request) -> Response:
    """The served models."""
    service = service_of(request)
    try:
        return JSONResponse({"object": "list", "data": await _cards(service)})
    except MIRLError as error:
        return refuse(service, request, error)


# A path: names have slashes (`Qwen/Qwen2.5-VL-7B-Instruct`), and not every client encodes them.
@router.head("/v1/models/{model:path}", include_in_schema=False)
@router.get(
    "/v1/models/{model:path}",
    response_class=Response,
    responses=documented(ServedModel, {404: MODEL_ERRORS[404], **GET_ERRORS}),
    openapi_extra={
        "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    },
)
async def one_model(request: Request) -> Response:
    """One served model."""
    # Not an argument of the function: FastAPI would document a 422 for it, which never comes.
    model: str = request.path_params["model"]
    if not model:
        return await list_models(request)
    service = service_of(request)
    try:
        cards = await _cards(service)
    except MIRLError as error:
        return refuse(service, request, error)
    for card in cards:
        if card["id"] == model:
            return JSONResponse(card)
    return error_response(
        ModelNotFoundError(
            f"the model '{model[:64]}' is not served here; GET /v1/models lists those that are"
        )
    )


async def _cards(service: Service) -> list[dict[str, Any]]:
    cards = []
    for card in await service.cards():
        cards.append(card)
        if card["id"] in service.names:
            cards.append({**card, "id": f"{card['id']}{DIRECT}", "parent": card["id"]})
    return cards
