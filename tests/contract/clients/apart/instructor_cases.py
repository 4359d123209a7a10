"""instructor: answers as pydantic models, by JSON schema and by a tool."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import instructor
import openai
import pytest
from instructor.core.exceptions import InstructorRetryException
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

NAME = "mirl-tiny"
MODES = [instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS]


class Seen(BaseModel):
    """What a picture shows."""

    digit: Literal[1, 7, 8]
    sure: bool
    colour: Literal["red", "green", "blue"]


@pytest.fixture
def fields(messages: list[Any], small: dict[str, Any]) -> Any:
    return {
        "model": NAME, "messages": messages, "response_model": Seen, "max_tokens": 400, "seed": 1,
        "max_retries": 0, "extra_body": {"mirl": small},
    }  # fmt: skip


def client(url: str, mode: instructor.Mode) -> instructor.Instructor:
    return instructor.from_openai(OpenAI(base_url=url, api_key="none", max_retries=0), mode=mode)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_a_model_and_its_completion(url: str, fields: Any, mode: instructor.Mode) -> None:
    seen, completion = client(url, mode).chat.completions.create_with_completion(**fields)
    assert isinstance(seen, Seen)
    assert completion.usage.completion_tokens > 50
    assert completion.mirl["descriptions"]
    assert completion.choices[0].message.reasoning


def test_its_own_images(url: str, fields: Any, messages: list[Any]) -> None:
    data = messages[0]["content"][0]["image_url"]["url"]
    fields["messages"] = [{"role": "user", "content": ["Which?", instructor.Image.from_base64(data)]}]
    assert isinstance(client(url, MODES[0]).chat.completions.create(**fields), Seen)


def test_models_while_they_come(url: str, fields: Any) -> None:
    fields.pop("response_model")
    parts = list(client(url, MODES[0]).chat.completions.create_partial(response_model=Seen, **fields))
    Seen.model_validate(parts[-1].model_dump())


def test_async(url: str, fields: Any) -> None:
    async def ask() -> Seen:
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as made:
            return await instructor.from_openai(made, mode=MODES[0]).chat.completions.create(**fields)

    assert isinstance(asyncio.run(ask()), Seen)


def test_errors_are_openais(url: str, fields: Any) -> None:
    with pytest.raises(InstructorRetryException) as caught:
        client(url, MODES[0]).chat.completions.create(**fields | {"extra_body": {"mirl": {"kep": 2}}})
    assert isinstance(caught.value.__cause__, openai.BadRequestError)
