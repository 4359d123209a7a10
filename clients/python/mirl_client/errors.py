"""Errors that the client raises itself; those of requests are the openai package's (`openai.OpenAIError`)."""

from __future__ import annotations

import sys

from openai import OpenAIError


class PictureError(ValueError):
    """A picture can't be read, or not without a package that is missing."""


class NotMIRLError(OpenAIError):
    """The server answers, but not as a MIRL server does."""


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a connection that breaks during a stream, which openai 2 lets through.

    They are those of httpx or of httpx2, by the version of the openai package.
    """
    modules = (sys.modules.get(name) for name in ("httpx", "httpx2"))
    return tuple(module.TransportError for module in modules if module is not None)
