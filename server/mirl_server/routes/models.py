"""GET /v1/models: every served name twice, gated and `:direct`, and the adapters."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from mirl_server.requests import DIRECT
from mirl_server.service import service_of

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The served models."""
    service = service_of(request)
    listed = []
    for card in await service.cards():
        listed.append(card)
        if card["id"] in service.names:
            listed.append({**card, "id": f"{card['id']}{DIRECT}", "parent": card["id"]})
    return {"object": "list", "data": listed}
