"""Errors that the client raises itself; those of requests are the openai package's (`openai.OpenAIError`)."""

from __future__ import annotations

from openai import OpenAIError


class PictureError(ValueError):
    """A picture can't be read, or not without a package that is missing."""


class NotMIRLError(OpenAIError):
    """The server answers, but not as a MIRL server does."""
