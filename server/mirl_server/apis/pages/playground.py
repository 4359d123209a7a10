"""The playground: the page at `/` that shows how an answer comes about, its files, and sample pictures.

Each file has its route, so a path can't lead out of the folder. The files hold nothing secret and need no API
key: the page sends the key with its requests, from a field in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from mirl_core import __version__
from mirl_core.bundled import MODELS

__all__ = ["Playground", "find_files"]

_HERE = Path(__file__).parent
_INSTALLED = _HERE / "playground_files"
_CHECKOUT = _HERE.parents[3] / "clients" / "playground"
INDEX = "index.html"
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
"""Types of the files that are served; those of another type in the folder are not."""
PREFIX = "/playground"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # A file that a new version changes must not stay in a browser beside its new neighbours.
    "Cache-Control": "no-cache",
}


def find_files() -> Path | None:
    """Return the folder of the page's files, in the wheel or in a checkout; None where it is missing."""
    for folder in (_INSTALLED, _CHECKOUT):
        if (folder / INDEX).is_file():
            return folder
    return None


@dataclass(frozen=True, slots=True)
class Playground:
    """The page's files.

    Args:
        folder: where they are.
    """

    folder: Path

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the page and of all its files, none of which needs a key."""
        return ("/", *self.files)

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of what the page loads."""
        return tuple(route.path for route in self.routes(documented=True) if route.path != "/")

    def routes(self, documented: bool) -> list[Route]:
        """Return the routes of the page, its files, and the sample pictures.

        Args:
            documented: whether `/docs` exists, to link it.
        """
        files = [
            Route(
                f"{PREFIX}/{file.relative_to(self.folder).as_posix()}", _send(file, MEDIA_TYPES[file.suffix])
            )
            for file in sorted(self.folder.rglob("*"))
            if file.suffix in MEDIA_TYPES and file.is_file()
        ]
        return [Route("/", self._page(documented)), *files, *_sample_routes()]

    def _page(self, documented: bool) -> Callable[[Request], Awaitable[Response]]:
        template = Template((self.folder / INDEX).read_text(encoding="utf-8"))
        docs = '<a href="docs">API reference</a>' if documented else ""
        text = template.substitute(version=__version__, docs=docs)

        async def page(_: Request) -> Response:
            return HTMLResponse(text, headers=HEADERS)

        return page


def _sample_routes() -> list[Route]:
    """Return the list of the bundled worlds' questions, and their pictures."""
    entries, routes = [], []
    for model in MODELS.values():
        for question in model.questions():
            path = f"{PREFIX}/samples/{model.name}/{question.file.name}"
            routes.append(Route(path, _send(question.file, "image/png")))
            entries.append(
                {
                    "model": model.name,
                    "file": path.removeprefix("/"),
                    "question": question.question,
                    "answer": question.answer,
                }
            )

    async def samples(_: Request) -> Response:
        return JSONResponse({"data": entries}, headers=HEADERS)

    return [Route(f"{PREFIX}/samples.json", samples), *routes]


def _send(file: Path, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def send(_: Request) -> Response:
        return FileResponse(file, media_type=media_type, headers=HEADERS)

    return send
