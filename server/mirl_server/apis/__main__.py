"""`python -m mirl_server.apis` prints the OpenAPI document of MIRL's routes; it needs no engine.

The TypeScript client's types are generated from it (clients/typescript/README.md).
"""

from __future__ import annotations

import json
import sys

from fastapi import FastAPI

from mirl_server.apis.pages.document import name_document
from mirl_server.apis.router import make_router


def document() -> str:
    """Return the OpenAPI document of MIRL's routes, without the backend's own, as JSON."""
    app = FastAPI()
    app.include_router(make_router())
    name_document(app)
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
