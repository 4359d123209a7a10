"""A user's reward function, by import path."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

from mirl_core.config import Tags
from mirl_core.errors import ConfigError
from mirl_core.tasks.questions import Question
from mirl_core.training.rl.recipe.config import AnswerReward
from mirl_core.types import Chain


@dataclass(frozen=True, slots=True)
class CallableReward:
    """The result of `function(question, answer, text)`, as a float.

    `question` is a `mirl_core.tasks.questions.Question`, `answer` the chain's answer (None where it has
    none), `text` the chain as it was sampled after the description.
    """

    name: str
    weight: float
    function: Callable[[Question, str | None, str], Any]

    @classmethod
    def make(cls, name: str, config: AnswerReward, tags: Tags, key: str) -> Self:
        return cls(name, config.weight, _import(config.target or "", f"{key}.target"))

    def score(self, question: Question, chain: Chain) -> float:
        return float(self.function(question, chain.answer, chain.text))


def _import(target: str, key: str) -> Callable[..., Any]:
    """Import the function `package.module:function`. Raises ConfigError with `key`."""
    module, colon, path = target.partition(":")
    if not (module and colon and path):
        raise ConfigError(f"{key}: '{target}' is not of the form package.module:function", param=key)
    try:
        target_object = reduce(getattr, path.split("."), importlib.import_module(module))
    except Exception as error:  # an import runs anyone's code
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{key}: can't import '{target}' ({reason}); its folder must be on PYTHONPATH", param=key
        ) from error
    if not callable(target_object):
        raise ConfigError(f"{key}: '{target}' is a {type(target_object).__name__}, not a function", param=key)
    function: Callable[..., Any] = target_object
    return function
