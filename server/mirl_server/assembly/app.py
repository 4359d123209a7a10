"""The composition of an app: MIRL's routes, the pages, and the layers before them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_server.apis.pages.playground import Playground, find_files
from mirl_server.apis.pages.routes import add_pages
from mirl_server.apis.router import make_router
from mirl_server.handling.lifetime import Lifetime
from mirl_server.middleware.in_flight import InFlight
from mirl_server.middleware.request_log import RequestLog
from mirl_server.middleware.stack import AccessControl, install_middleware
from mirl_server.observability.metrics import process_metrics
from mirl_server.observability.serving_summary import Serving
from mirl_server.settings.server import ServerSettings

if TYPE_CHECKING:
    from mirl_server.observability.tracing import Tracing

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Assembly:
    """What was added to an app."""

    app: FastAPI
    settings: ServerSettings
    access: AccessControl
    playground: Playground | None

    def log_requests(self, quiet: str | None) -> None:
        """Add the log of requests. To be called last, so that requests that another layer refuses are logged.

        Args:
            quiet: paths, separated by commas, that are logged only when they fail.
        """
        self.app.add_middleware(
            RequestLog,
            settings=self.settings.log,
            quiet=[
                *(path.strip() for path in (quiet or "").split(",")),
                *(self.playground.files if self.playground is not None else ()),
            ],
            ended=process_metrics().refresh,
        )

    def serving(self, name: str, model: ModelSettings, options: MIRLOptions, quiet: bool) -> Serving:
        """Return what the server serves, for its operator.

        Args:
            name: the first served name.
            quiet: whether vLLM's own log is left out.
        """
        return Serving(
            name,
            model,
            options,
            keys=bool(self.access.keyring),
            pages=bool(self.app.openapi_url),
            playground=self.playground is not None,
            quiet=quiet,
        )

    def warn_if_open(self, host: str | None, uds: str | None) -> None:
        """Log a warning where other machines may use the model without a key."""
        if not self.access.keyring and host not in LOOPBACK and not uds:
            logger.warning("no API keys: everyone who reaches the port may use the model (--api-key-file)")


def tracing_to(endpoint: str | None) -> Tracing | None:
    """Return tracing to an OTLP endpoint; without an endpoint return None and import no OpenTelemetry."""
    if endpoint is None:
        return None
    from mirl_server.observability.tracing import process_tracing

    return process_tracing(endpoint)


def assemble(
    app: FastAPI,
    settings: ServerSettings,
    life: Lifetime,
    name: Callable[[], str],
    *,
    keys: Sequence[str] = (),
    generating: Collection[str] = (),
    swagger: Path | None = None,
) -> Assembly:
    """Add MIRL's routes, which replace the app's of the same path and method, its pages and its middleware.

    To be called before the app's CORS layer is added (`install_middleware`).

    Args:
        name: the served model's name, once it is known.
        keys: API keys without names, besides those of the settings.
        generating: the paths of the app's own routes that generate.
        swagger: the folder with Swagger UI's files; None: `/docs` leads to the document.

    Raises:
        ConfigError: the key file, or the environment variable with keys, is wrong.
    """
    files = find_files() if settings.playground else None
    playground = Playground(files) if files is not None else None
    app.add_middleware(InFlight, life=life)
    pages = playground.paths if playground is not None else ()
    access = install_middleware(app, settings, keys, generating, pages)
    app.state.mirl_access = access
    app.include_router(make_router())
    add_pages(app, name, swagger, playground)
    return Assembly(app, settings, access, playground)
