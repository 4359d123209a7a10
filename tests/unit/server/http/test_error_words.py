"""No error quotes a picture, or names the source files of a library."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.responses import JSONResponse

from mirl_core.errors import RequestError
from mirl_server.http.error_words import LONGEST, clean
from mirl_server.http.errors import error_body, messages_error
from mirl_server.middleware.error_shapes import ErrorShapes
from tests.unit.server.harness import data_url

URL = data_url(size=(40, 40))
DATA = URL.partition(",")[2]
XGRAMMAR = "[11:41:25] /project/cpp/json_schema_converter.cc:4950: Cannot find field a in #/$defs/a\n\n"


class Part(BaseModel):
    url: str
    detail: str


def pydantics(value: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[Part]).validate_python([value])
    return str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        pydantics({"url": URL, "detail": None}),
        pydantics({"url": URL, "detail": 'it\'s "quoted"', "b": 1} | {"url": 3, "detail": URL}),
        pydantics(URL),
        f"1 validation error:\n  {{'type': 'x', 'msg': 'no', 'input': '{URL[:200]}...[truncated]'}}",
        f"1 validation error:\n  {{'type': 'x', 'input': '...{DATA[-20:]}', 'ctx': {{}}}}",
        f"Invalid data URL {URL}",
        f"cannot load {URL!r}: no",
        f"not an image: {DATA}",
    ],
)
def test_nothing_of_a_picture_is_quoted(message: str) -> None:
    said = clean(message)
    for start in range(len(DATA) - 12):
        assert DATA[start : start + 12] not in said
    assert len(said) > 5


def test_the_fault_is_still_named() -> None:
    assert "Input should be a valid string" in clean(pydantics({"url": URL, "detail": None}))
    assert clean(pydantics({"url": URL, "detail": None})).count("0.detail") == 1


@pytest.mark.parametrize(
    "message", [f"Failed to transform json schema into a grammar: {XGRAMMAR}", f"{XGRAMMAR} and more"]
)
def test_xgrammars_words_stay_here(message: str) -> None:
    said = clean(message)
    for word in (".cc", "/project", "11:41", "Cannot find", "and more"):
        assert word not in said
    assert said.endswith("it asks for something that answers can't be held to")


@pytest.mark.parametrize(
    "message",
    [
        "the model 'Qwen/Qwen2.5-VL-7B-Instruct' is not served here",
        f"unknown field '{'x' * 64}'; leave it out",
        "send a data URL (data:image/png;base64,…)",
        "a data URL reads data:image/png;base64,… (or jpeg, webp, gif, bmp)",
        "'data:' URLs",
        "[11:30] is no list",
        "input: 'x' is wrong",
        "",
    ],
)
def test_other_words_stay(message: str) -> None:
    assert clean(message) == message


def test_a_long_message_is_cut_and_takes_no_time() -> None:
    for words in ("x" * 10**7, "[type=x, input_value=" * 10**5, "data:" * 10**6, "[11:11:11] " * 10**5):
        assert len(clean(words)) <= LONGEST + 1


async def test_every_error_is_cleaned() -> None:
    error = RequestError(f"a schema: {XGRAMMAR}", param="tools")
    for body in (error_body(error), messages_error(error)):
        assert ".cc" not in json.dumps(body)
    for path in ("/v1/messages", "/v1/completions"):
        for content in (
            {"error": {"message": f"no {URL}", "type": "BadRequestError", "param": None, "code": 400}},
            {"type": "error", "error": {"message": f"no {URL}", "type": "invalid_request_error"}},
            {"detail": [{"loc": ["body"], "input": URL}]},
        ):
            app = ErrorShapes(JSONResponse(content, 400))
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://test"
            ) as client:
                response = await client.post(path)
            assert response.status_code == 400
            assert DATA[:30] not in response.text
            assert int(response.headers["content-length"]) == len(response.content)
