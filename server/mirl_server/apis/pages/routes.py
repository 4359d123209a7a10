"""`GET /`: the playground, or a page with a request to copy; `GET /docs`: the API's document as a page.

Neither makes a browser ask another host for anything: Swagger UI's files come from this server, and a content
security policy forbids the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from string import Template

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from mirl_core import __version__
from mirl_server.apis.pages.document import name_document
from mirl_server.apis.pages.playground import Playground

Endpoint = Callable[[Request], Awaitable[Response]]
_HERE = Path(__file__).parent
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")
_REPLACED = ("/", "/docs", "/docs/oauth2-redirect", "/redoc")


def add_pages(
    app: FastAPI, name: Callable[[], str], swagger: Path | None, playground: Playground | None = None
) -> None:
    """Name the app's document and add the pages, in place of FastAPI's, which load files from other hosts.

    Where the app has no document (`--disable-fastapi-docs`), there is no `/docs`.

    Args:
        name: the served model's name, for the request on the page.
        swagger: the folder with Swagger UI's files; where it or a file is missing, `/docs` leads to the
            document.
        playground: the page at `/`; None: the start page is there.
    """
    name_document(app)
    documented = bool(app.openapi_url)
    own: list[BaseRoute] = [Route("/", _start_page(name, documented))]
    if playground is not None:
        own = [*playground.routes(documented)]
    if app.openapi_url:
        if swagger is not None and all((swagger / file).is_file() for file in SWAGGER_FILES):
            own += _docs_routes(swagger)
        else:
            own.append(Route("/docs", _redirect("openapi.json")))
        own.append(Route("/redoc", _redirect("docs")))
    others = [route for route in app.router.routes if getattr(route, "path", None) not in _REPLACED]
    app.router.routes[:] = [*own, *others]


def _start_page(name: Callable[[], str], documented: bool) -> Endpoint:
    template = Template((_HERE / "start.html").read_text(encoding="utf-8"))
    docs = '<li><a href="docs">docs</a>: every endpoint and field</li>' if documented else ""

    async def start_page(request: Request) -> Response:
        page = template.substitute(
            version=__version__,
            model=escape(name()),
            url=escape(str(request.base_url).rstrip("/")),
            docs=docs,
        )
        return HTMLResponse(page, headers=_HEADERS)

    return start_page


def _docs_routes(swagger: Path) -> list[BaseRoute]:
    async def docs(_: Request) -> Response:
        return FileResponse(_HERE / "docs.html", headers=_HEADERS)

    def file(path: Path) -> Route:
        async def send(_: Request) -> Response:
            return FileResponse(path)

        return Route(f"/docs/{path.name}", send)

    return [
        Route("/docs", docs),
        file(_HERE / "docs.js"),
        *(file(swagger / name) for name in SWAGGER_FILES),
    ]


def _redirect(to: str) -> Endpoint:
    async def redirect(_: Request) -> Response:
        return RedirectResponse(to)

    return redirect
