"""Messages and content parts of every wrong shape, images that are none, and forms that are traps."""

from __future__ import annotations

import base64
import random
from typing import Any

from tests.hostile import images
from tests.hostile.case import (
    CHAT,
    DESCRIBE,
    DIRECT,
    GATED,
    MESSAGES,
    PLAIN,
    RESPONSES,
    SCORE,
    Cases,
    Target,
    picture,
)  # fmt: skip

JUNK: tuple[Any, ...] = (None, True, 3, 1e300, "", [], {}, [[]], [None], {"type": None}, {"type": "x" * 999})


def shapes() -> Cases:
    """Messages of chat completions."""
    image = {"type": "image_url", "image_url": {"url": picture()}}
    text = {"type": "text", "text": "x"}
    wrong: list[tuple[str, Any]] = [
        (f"messages = {value!r:.20}", value)
        for value in (None, True, 3, "x", {}, [], [None], [3], ["x"], [[]])
    ]
    wrong += [
        (f"the role {role!r:.20}", [{"role": role, "content": [image, text]}, _question()])
        for role in (None, 3, "", "User", "USER", "bot", "x" * 999, ["user"], {"a": 1})
    ]
    for value in JUNK:
        wrong += [
            (f"content = {value!r:.20} before", [{"role": "system", "content": value}, _question()]),
            (f"the part {value!r:.20}", [{"role": "user", "content": [image, value]}]),
            (f"image_url = {value!r:.20}", [{"role": "user", "content": [{**image, "image_url": value}]}]),
            (f"url = {value!r:.20}", [{"role": "user", "content": [{**image, "image_url": {"url": value}}]}]),
            (f"text = {value!r:.20}", [{"role": "user", "content": [image, {**text, "text": value}]}]),
        ]
    for kind in (
        "image", "image_pil", "image_embeds", "input_image", "video_url", "audio_url", "input_audio", "file",
        "refusal", "thinking", "tool_use", "document", "text ", "\0",
    ):  # fmt: skip
        part = {"type": kind, kind: {"url": picture(), "data": "AAAA", "format": "wav"}, "text": "x"}
        wrong.append((f"a part of type {kind!r}", [{"role": "user", "content": [image, part]}]))
    wrong.append(("nine images", [{"role": "user", "content": [image] * 9}]))
    wrong.append(("a part 20 000 times", [{"role": "user", "content": [*[text] * 20_000, image]}]))
    wrong.append(("a prompt that is too long", [{"role": "user", "content": [image, _long()]}]))
    wrong.append(("20 000 messages", [{"role": "user", "content": "x"}] * 20_000 + [_question()]))
    for name, messages in wrong:
        # An empty text is a text, and an earlier turn may be one.
        lenient = name in ("text = ''", "content = '' before", "content = [] before")
        for target in (CHAT, SCORE, DESCRIBE):
            if lenient or not _is_gated(messages):
                yield target.case("shapes", name, target.body(messages=messages), harmless=True)
            else:
                yield target.case("shapes", name, target.body(messages=messages))
        yield DIRECT.case("shapes", name, DIRECT.body(messages=messages), harmless=True)


def _is_gated(messages: Any) -> bool:
    """Whether the newest message is a user's with something like an image; others are the backend's."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) and last.get("role") == "user" else None
    return isinstance(content, list) and any(isinstance(p, dict) and "image_url" in p for p in content)


def _question() -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture()}}]}


def _long() -> dict[str, Any]:
    return {"type": "text", "text": "seven " * 20_000}


def other_shapes() -> Cases:
    """Input items of the Responses API, blocks of the Anthropic API."""
    for value in (*JUNK, "x", {"type": "message"}, {"type": "item_reference", "id": "x"},
                  {"type": "reasoning", "summary": 3}, {"type": "function_call", "name": 3},
                  {"type": "computer_call"}, {"role": "tool", "content": "x"}):  # fmt: skip
        for target, field in ((RESPONSES, "input"), (MESSAGES, "messages")):
            good = target.body()
            name = f"{value!r:.30}"
            yield target.case("shapes", f"{name} before", {**good, field: [value, *good[field]]})
            parts = good[field][0]["content"]
            inner = [{**good[field][0], "content": [*parts, value]}]
            yield target.case("shapes", f"{name} among the parts", {**good, field: inner})
            image = {**parts[0], "image_url": value, "source": value}
            broken = [{**good[field][0], "content": [image]}]
            yield target.case("shapes", f"{name} as the image", {**good, field: broken})
            yield target.case(
                "shapes", f"{field} = {name}", {**good, field: value}, harmless=value in ("x", "")
            )
    for value in JUNK[1:]:
        yield MESSAGES.case("shapes", f"system = {value!r:.20}", MESSAGES.body(system=value),
                            harmless=value in ("", []))  # fmt: skip
        if value != "":
            yield RESPONSES.case(
                "shapes", f"instructions = {value!r:.20}", RESPONSES.body(instructions=value)
            )


def pictures() -> Cases:
    """The corpus of images, each to one API through the gate and to one of vLLM's own handlers."""
    for place, (name, url) in enumerate(images.CORPUS.items()):
        if "over the limit" in name:
            continue
        # The API puts the base64 into a URL of its own making.
        gated, plain = GATED[place % len(GATED)], PLAIN[place % len(PLAIN)]
        mine = gated is not MESSAGES or url.startswith("data:image/png;base64,")
        yield gated.case("images", name, gated.body(url), harmless=name in images.LARGE or not mine)
        yield plain.case("plain images", name, plain.body(url), harmless=True)


def mutated_pictures() -> Cases:
    """Good files with some of their bytes changed: many of them are pictures still."""
    chance = random.Random(7)
    for kind in images.FORMATS:
        good = base64.b64decode(picture(kind).partition(",")[2])
        for number in range(24):
            raw = bytearray(good)
            for _ in range(chance.choice((1, 3, 20))):
                raw[chance.randrange(min(len(raw), 200) if chance.random() < 0.7 else len(raw))] = (
                    chance.randrange(256)
                )
            url = f"data:image/{kind.lower()};base64,{base64.b64encode(raw).decode()}"
            target = chance.choice((CHAT, RESPONSES, MESSAGES, DIRECT))
            yield target.case("mutated images", f"{kind} no. {number}", target.body(url), harmless=True)


def forms() -> Cases:
    """Schemas, tools and other forms of answers that are wrong, or that would never end."""
    schemas: dict[str, Any] = {
        "a type that is none": {"type": "no"}, "a type that is a number": {"type": 3},
        "properties that are a list": {"type": "object", "properties": [1]},
        "required that is a number": {"type": "object", "required": 3}, "an empty enum": {"enum": []},
        "an enum that is an object": {"enum": {}}, "a reference to nothing": {"$ref": "#/$defs/nothing"},
        "a pattern that is none": {"type": "string", "pattern": "([a-z"},
        "more at least than at most": {"type": "integer", "minimum": 5, "maximum": 1},
        "arrays of arrays of arrays": {"type": "array", "minItems": 1000, "items": {"type": "array",
                                       "minItems": 1000, "items": {"type": "array", "minItems": 1000}}},
        "an enum of 100 000": {"enum": list(range(100_000))},
        "a constant of a megabyte": {"const": "x" * 2**20},
        "20 000 properties": {"type": "object", "properties": {f"p{n}": {} for n in range(20_000)}},
        "a depth of 150": _deep(150), "integers of 40 digits": {"type": "integer", "minimum": -(10**40)},
        "half a surrogate": {"const": "\ud83d"},
    }  # fmt: skip
    for name, schema in schemas.items():
        for target, form in _formed(schema):
            # vLLM looks at the keywords that it knows, and compiles the rest.
            yield target.case("forms", name, target.body(**form), harmless=not target.gated)
    traps: dict[str, Any] = {
        "a reference to itself": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        "references that double": {"$ref": "#/$defs/a0", "$defs": {
            **{f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 10} for n in range(12)},
            "a12": {"type": "string"}}},
        "a reference to a file": {"$ref": "file:///etc/passwd"},
        "a reference to a server": {"$ref": "http://127.0.0.1/schema.json"},
        "a catastrophic pattern": {"type": "string", "pattern": "^(a+)+$"},
        "a repeated pattern": {"type": "string", "pattern": "^(([a-z]{1,1000}){1,1000}){1,1000}$"},
        "a text of at least 10 000 000": {"type": "string", "minLength": 10**7},
        "an array of at least 1 000 000": {"type": "array", "minItems": 10**6},
    }  # fmt: skip
    for name, schema in traps.items():
        for target, form in _formed(schema):
            yield target.case("forms", name, target.body(**form), harmless=True)
    kinds: list[Any] = [
        True, 3, "json", [], {}, {"type": "xml"}, {"type": "json_schema"},
        {"type": "json_schema", "json_schema": 3}, {"type": "json_schema", "json_schema": {}},
        {"type": "json_schema", "json_schema": {"schema": 3}},
        {"type": "grammar", "grammar": "root ::= root"},
    ]  # fmt: skip
    for value in kinds:
        yield CHAT.case("forms", f"response_format = {value!r:.40}", CHAT.body(response_format=value))
        yield DIRECT.case(
            "forms", f"response_format = {value!r:.40}", DIRECT.body(response_format=value), harmless=True
        )
        yield RESPONSES.case("forms", f"text.format = {value!r:.40}", RESPONSES.body(text={"format": value}),
                             harmless=value in ([], {}))  # fmt: skip
    outputs: list[Any] = [
        {}, {"regex": "(a+)+$"}, {"grammar": "root ::= root"}, {"choice": []}, {"choice": [3]}, {"json": 3},
        {"json": {}, "choice": ["x"]}, {"structural_tag": "{"}, {"choice": ["x"] * 300},
    ]  # fmt: skip
    for value in outputs:
        yield CHAT.case("forms", f"structured_outputs = {value!r:.40}", CHAT.body(structured_outputs=value))
        yield DIRECT.case(
            "forms",
            f"structured_outputs = {value!r:.40}",
            DIRECT.body(structured_outputs=value),
            harmless=True,
        )


def _deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def _formed(schema: dict[str, Any]) -> list[tuple[Target, dict[str, Any]]]:
    """A schema where each API has it."""
    named = {"type": "json_schema", "name": "x", "schema": schema}
    chats = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    return [
        (CHAT, chats), (DIRECT, chats), (RESPONSES, {"text": {"format": named}}),
        (MESSAGES, {"output_config": {"format": {"type": "json_schema", "schema": schema}}}),
        (CHAT, {"tools": [_tool(schema)], "tool_choice": "required"}),
    ]  # fmt: skip


def _tool(parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "point", "parameters": parameters}}


def tools() -> Cases:
    """Tools and choices of them."""
    wrong: list[Any] = [
        True, 3, "x", {}, [None], [3], ["x"], [[]], [{}], [{"type": "function"}],
        [{"type": "code_interpreter"}],
        [{"type": "function", "function": 3}], [{"type": "function", "function": {}}],
        [{"type": "function", "function": {"name": 3}}], [{"type": "function", "function": {"name": ""}}],
        [{"type": "function", "function": {"name": "x" * 300}}], [_tool(3)], [_tool([])],
        [_tool({"type": 3})], [_tool({"$defs": [1]})], [_tool({"$defs": 3})], [_tool({"$ref": "#/$defs/x"})],
        [{"type": "function", "function": {"name": "x", "frob": 1}}],
    ]  # fmt: skip
    for value in wrong:
        name = f"tools = {value!r:.60}"
        for target in (CHAT, DIRECT, RESPONSES, PLAIN[1], MESSAGES, PLAIN[2]):
            choice: Any = {"type": "any"} if "messages" in target.path else "required"
            body = target.body(tools=value, tool_choice=choice)
            yield target.case("tools", name, body, harmless=not target.gated)
    choices: list[Any] = [
        True, 3, "", "must", "any", [], ["auto"], {"type": "x"}, {"type": "function"},
        {"type": "function", "function": {"name": "nobody"}}, {"type": "function", "function": 3},
        {"type": "tool", "name": "nobody"}, {"type": "auto"},
    ]  # fmt: skip
    for choice in choices:
        for target in (CHAT, DIRECT, RESPONSES, MESSAGES):
            inner = _tool({"type": "object"})["function"]
            tool = {
                "/v1/chat/completions": {"type": "function", "function": inner},
                "/v1/responses": {"type": "function", **inner},
                "/v1/messages": {"name": "point", "input_schema": {"type": "object"}},
            }[target.path]  # fmt: skip
            body = target.body(tools=[tool], tool_choice=choice)
            yield target.case("tools", f"tool_choice = {choice!r:.40}", body, harmless=not target.gated)
