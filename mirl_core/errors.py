"""The one exception tree.

    MIRLError
    ├── ConfigError               a setting, flag, recipe or `mirl.json` is wrong (command line: exit code 2)
    ├── RequestError              the caller's request is wrong (HTTP 400)
    │   ├── ImageError            an image can't be read, or is of a kind that isn't accepted (HTTP 400)
    │   ├── ContextLengthError    the prompt is longer than the model takes (HTTP 400)
    │   ├── ModelNotFoundError    the request names a model that isn't served (HTTP 404)
    │   ├── RequestTooLargeError  body, image or fan-out is over the operator's limit (HTTP 413)
    │   └── BodyTimeoutError      the body didn't arrive in time (HTTP 408)
    ├── AuthenticationError       the API key is missing or unknown (HTTP 401)
    ├── BusyError                 there is no room for the request now; it may be sent again (HTTP 429)
    │   ├── RateLimitError        the key's own limits are used up (HTTP 429)
    │   └── DrainingError         the server is shutting down (HTTP 503)
    ├── EngineError               the engine failed on this request (HTTP 500)
    │   ├── EngineDeadError       the engine is gone; nothing can be generated any more (HTTP 503)
    │   └── ServerError           a server that the engine asks failed (HTTP 502)
    ├── DeadlineError             the request's timeout passed with nothing to return (HTTP 504)
    └── TrainingError             a training step would ruin the weights: they are left as they were

`mirl_server.http.errors` maps each leaf to an HTTP status and an error body; a test covers every leaf.
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "BodyTimeoutError",
    "BusyError",
    "ConfigError",
    "ContextLengthError",
    "DeadlineError",
    "DrainingError",
    "EngineDeadError",
    "EngineError",
    "ImageError",
    "MIRLError",
    "ModelNotFoundError",
    "RateLimitError",
    "RequestError",
    "RequestTooLargeError",
    "ServerError",
    "TrainingError",
]

RETRY_AFTER = 5
"""Seconds until a client may repeat a request that a restart of engine or server refused."""


class MIRLError(Exception):
    """Base of everything MIRL raises on purpose.

    Args:
        message: one sentence that says what is wrong and what to do about it.
        param: the field at fault, dotted (`mirl.keep`), where there is one.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ConfigError(MIRLError):
    """A setting, flag, recipe or `mirl.json` is wrong."""


class RequestError(MIRLError):
    """The caller's request is wrong."""


class ImageError(RequestError):
    """An image can't be read, or is of a kind that isn't accepted."""


class ContextLengthError(RequestError):
    """The prompt is longer than the model takes. Clients recognise the code or the words, and shorten it."""


class ModelNotFoundError(RequestError):
    """The request names a model that the server doesn't serve."""


class RequestTooLargeError(RequestError):
    """Body, image or fan-out is over the operator's limit."""


class BodyTimeoutError(RequestError):
    """The request's body didn't arrive in time."""


class AuthenticationError(MIRLError):
    """The API key is missing or unknown."""


class BusyError(MIRLError):
    """There is no room for the request now; the same request may be sent again.

    Args:
        retry_after: seconds after which the client should try again; None: unknown.
    """

    def __init__(self, message: str, retry_after: float | None = None, *, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after = retry_after


class RateLimitError(BusyError):
    """The key's own limits are used up."""


class DrainingError(BusyError):
    """The server is shutting down."""


class EngineError(MIRLError):
    """The engine failed on this request."""


class EngineDeadError(EngineError):
    """The engine is gone; nothing can be generated any more."""


class ServerError(EngineError):
    """A server that the engine calls failed, or refused for a reason other than the request.

    Args:
        status: HTTP status of its response; None: it didn't respond in time.
    """

    def __init__(self, message: str, status: int | None = None, *, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.status = status


class DeadlineError(MIRLError):
    """The request's timeout passed with nothing to return."""


class TrainingError(MIRLError):
    """A training step would ruin the weights (a loss or gradient that is NaN, infinite or exploding): they
    are left as they were."""
