"""The API's document: its title, named components, and a tag for every route, MIRL's and the backend's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from mirl_core import __version__
from mirl_server.apis.pages.components import name_components, speak_json

TITLE = "MIRL"
DESCRIPTION = """\
A vision-language model that looks before it reasons. A request with an image is *gated*: the model describes
the image several times, mutual information chooses the descriptions that owe most to it, each continues into
chains of reasoning, and the chains vote. `NAME:direct` is the same model without the gate. Requests without
an image go to vLLM unchanged."""
_TAGS = (
    ("Chat", "OpenAI's chat completions, gated.", ("/v1/chat/completions",)),
    ("Responses", "OpenAI's Responses API, gated.", ("/v1/responses",)),
    ("Messages", "Anthropic's API, gated.", ("/v1/messages",)),
    ("MIRL", "Descriptions and scores by themselves.", ("/v1/mirl",)),
    ("Models", "The served names.", ("/v1/models",)),
    (
        "Health and metrics",
        "For load balancers, orchestrators and dashboards.",
        ("/ready", "/health", "/ping", "/metrics", "/load", "/version"),
    ),
    ("vLLM", "vLLM's own endpoints, unchanged and not gated.", ("/",)),
)
"""Name, description and paths of each tag, in the order of the page; the first with a fitting path holds."""


def tag_of(path: str) -> str:
    """Return the tag of a route's path."""
    return next(
        name
        for name, _, prefixes in _TAGS
        if any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in prefixes)
    )


def name_document(app: FastAPI) -> None:
    """Give an app's document MIRL's title, version and components, and each operation the tag of its path."""
    app.title, app.version, app.description = TITLE, __version__, DESCRIPTION
    make: Callable[[], dict[str, Any]] = app.openapi

    def document() -> dict[str, Any]:
        made = make()
        name_components(made)
        speak_json(made)
        for path, operations in made.get("paths", {}).items():
            for operation in operations.values():
                operation["tags"] = [tag_of(path)]
        used = {tag_of(path) for path in made.get("paths", {})}
        made["tags"] = [
            {"name": name, "description": description} for name, description, _ in _TAGS if name in used
        ]
        return made

    app.openapi = document  # type: ignore[method-assign]
