"""The stack of layers before every route: request lines, error shapes, authentication, limits, admission."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fastapi import FastAPI

from mirl_core.errors import AuthenticationError, RateLimitError
from mirl_server.access.authentication import Authentication
from mirl_server.access.keys import Keyring, make_keyring
from mirl_server.access.quotas import Quotas
from mirl_server.handling.admission import KINDS, Admission
from mirl_server.http.body_limits import BodyLimits
from mirl_server.middleware.error_shapes import ErrorShapes
from mirl_server.middleware.pass_through import PassThroughAdmission
from mirl_server.middleware.request_lines import RequestLines
from mirl_server.observability.metrics import Metrics
from mirl_server.settings.server import ServerSettings


@dataclass(frozen=True, slots=True)
class AccessControl:
    """The API keys of an app and their use. Set `quotas.refused` to count refusals."""

    keyring: Keyring
    quotas: Quotas


def install_middleware(
    app: FastAPI,
    settings: ServerSettings,
    bare: Sequence[str] = (),
    generating: Collection[str] = (),
    pages: Collection[str] = (),
) -> AccessControl:
    """Add the layers to an app that does not serve yet.

    Call it before the app's CORS layer is added: CORS must be outside, so that browsers can read refusals.

    Args:
        bare: keys without names besides those of the settings (vLLM's `--api-key`).
        generating: the app's own generating paths. MIRL's routes do their admission themselves.
        pages: paths that need no key, besides those of the settings.

    Raises:
        ConfigError: the key file, or the environment variable with keys, is wrong.
    """
    access = AccessControl(make_keyring(settings.access, bare), Quotas())
    opened = settings.access.model_copy(update={"open_paths": (*settings.access.open_paths, *pages)})
    if generating:
        app.add_middleware(PassThroughAdmission, paths=generating)
    app.add_middleware(BodyLimits, settings=settings.http)
    app.add_middleware(Authentication, keyring=access.keyring, quotas=access.quotas, settings=opened)
    app.add_middleware(ErrorShapes)
    app.add_middleware(RequestLines)
    return access


def watch_load(metrics: Metrics, admission: Admission, quotas: Quotas) -> None:
    """Show the queue and the admitted work in the metrics, and count refusals that happen before a route."""
    metrics.watch(
        queue_requests=lambda: sum(map(admission.queued, KINDS)),
        queue_sequences=lambda: sum(map(admission.queued_sequences, KINDS)),
        admitted_sequences=lambda: sum(map(admission.running, KINDS)),
        admitted_tokens=lambda: sum(map(admission.running_tokens, KINDS)),
        admission_limit_sequences=lambda: admission.capacity,
        admission_limit_tokens=lambda: admission.token_capacity,
    )
    quotas.refused = lambda reason, _: metrics.refused(
        AuthenticationError(reason) if reason == "key" else RateLimitError(reason)
    )
