"""The tree of errors, and what an error carries."""

from __future__ import annotations

import inspect

import pytest

from mirl_core import errors
from mirl_core.errors import BusyError, MIRLError, ServerError

TREE = {
    "MIRLError": Exception,
    "ConfigError": errors.MIRLError,
    "RequestError": errors.MIRLError,
    "ImageError": errors.RequestError,
    "ContextLengthError": errors.RequestError,
    "ModelNotFoundError": errors.RequestError,
    "RequestTooLargeError": errors.RequestError,
    "BodyTimeoutError": errors.RequestError,
    "AuthenticationError": errors.MIRLError,
    "BusyError": errors.MIRLError,
    "RateLimitError": errors.BusyError,
    "DrainingError": errors.BusyError,
    "EngineError": errors.MIRLError,
    "EngineDeadError": errors.EngineError,
    "ServerError": errors.EngineError,
    "DeadlineError": errors.MIRLError,
    "TrainingError": errors.MIRLError,
}


def test_the_tree_is_the_one_that_is_documented() -> None:
    classes = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}
    assert {name: kind.__bases__ for name, kind in classes.items()} == {
        name: (base,) for name, base in TREE.items()
    }
    assert sorted(errors.__all__) == sorted(TREE)
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in TREE)


@pytest.mark.parametrize("name", TREE)
def test_an_error_carries_its_message_and_the_field_at_fault(name: str) -> None:
    kind: type[MIRLError] = getattr(errors, name)
    error = kind("do this instead", param="mirl.keep")
    assert (str(error), error.message, error.param) == ("do this instead", "do this instead", "mirl.keep")
    assert kind("do this instead").param is None


def test_what_some_carry_besides() -> None:
    busy, server = BusyError("later", 2.5, param="x"), ServerError("gone", 502, param="y")
    assert (busy.retry_after, busy.param) == (2.5, "x")
    assert (server.status, server.param) == (502, "y")
    assert (BusyError("later").retry_after, ServerError("gone").status) == (None, None)
