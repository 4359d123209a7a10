"""Hooks of schemathesis: half of what it generates is steered past the door, and none of it costs much.

Left alone it never makes up a picture or a model's name, and would only see refusals of the first few checks.
What is sent is a function of what was generated, so that a failure can be replayed.
"""

from __future__ import annotations

import json
import random
from typing import Any

import schemathesis

from mirl_server.handling.reading.json_schema import EXAMPLE_PNG
from tests.helpers.servers import NAME

URL = f"data:image/png;base64,{EXAMPLE_PNG}"
CHAT_TURN = {
    "role": "user",
    "content": [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": "What is it?"}],
}
TURNS: dict[str, tuple[str, dict[str, Any]]] = {
    # path: (field, a user's turn that goes through the gate)
    "/v1/chat/completions": ("messages", CHAT_TURN),
    "/v1/mirl/describe": ("messages", CHAT_TURN),
    "/v1/mirl/score": ("messages", CHAT_TURN),
    "/v1/responses": (
        "input",
        {"role": "user", "content": [{"type": "input_image", "image_url": URL}]},
    ),
    "/v1/messages": (
        "messages",
        {
            "role": "user",
            "content": [
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": EXAMPLE_PNG},
                }
            ],
        },
    ),
}
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
DEAR = {"descriptions": (32, 3), "keep": (32, 2), "forks": (16, 2), "description_tokens": (2048, 32)}
"""Knob: the server's limit, and what is dear below it becomes this."""


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    if isinstance(case.body, dict) and case.path in TURNS:
        case.body = steered(case.path, case.body)


def steered(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A body that gets further than the generated one, at small cost."""
    chance = random.Random(json.dumps(body, sort_keys=True, default=repr))
    told = dict(body)
    if isinstance(told.get("model"), str) and chance.random() < 0.8:
        told["model"] = chance.choice([NAME, NAME, f"{NAME}:direct"])
    field, turn = TURNS[path]
    if field in told and chance.random() < 0.6:
        earlier = told[field] if isinstance(told[field], list) and chance.random() < 0.3 else []
        told[field] = [*earlier, turn]
    return _cheap(path, told)


def _cheap(path: str, body: dict[str, Any]) -> dict[str, Any]:
    for name in LENGTHS:
        if _is_number(body.get(name)) and body[name] > 24:
            body[name] = 24
    if path != "/v1/mirl/score" and not any(name in body for name in LENGTHS):
        body["max_output_tokens" if path == "/v1/responses" else "max_tokens"] = 24
    if _is_number(body.get("n")) and 2 < body["n"] <= 8:
        body["n"] = 2
    knobs = body.setdefault("mirl", {}) if body.get("model") != f"{NAME}:direct" else None
    if isinstance(knobs, dict):
        knobs = {"descriptions": 2, "keep": 1, "forks": 1} | knobs
        for name, (limit, little) in DEAR.items():
            if _is_number(knobs.get(name)) and little < knobs[name] <= limit:
                knobs[name] = little
        if _is_number(knobs.get("timeout")) and 0 < knobs["timeout"] < 60:
            # It would be a 504, and rightly.
            knobs["timeout"] = 60
        body["mirl"] = knobs
    return body


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
