"""The form of an answer: what the engine receives, and what is read of what it sampled."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mirl_core.algorithm.answers import Extract
from mirl_core.algorithm.answers.forms import AnswerFormat, json_schema, one_of
from mirl_core.config import Tags
from mirl_core.errors import RequestError

TAGS = Tags()
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
JSON = json_schema(SCHEMA)
COLOUR = one_of(["red", "dark red"])
CHAIN = "<think>so</think>\n<answer>{}</answer>"


@pytest.mark.parametrize(
    ("form", "text", "taken"),
    [
        (JSON, CHAIN.format('{"a": 1}'), True),
        (JSON, '<answer>{"a": 1}</answer>', True),
        (JSON, CHAIN.format('{"a": "x"}'), False),
        (JSON, CHAIN.format('{"a": 1, "b": 2}'), False),
        (JSON, CHAIN.format("it is 1"), False),
        (JSON, '<think>so</think>{"a": 1}', False),
        (JSON, CHAIN.format('{"a": 1}') + " and more", False),
        (json_schema(None), CHAIN.format('{"b": [1, "x"]}'), True),
        (json_schema(None), CHAIN.format("[1]"), False),
        (COLOUR, CHAIN.format("dark red"), True),
        (COLOUR, CHAIN.format("dark"), False),
    ],
)
def test_a_chain_thinks_freely_and_answers_in_form(form: AnswerFormat, text: str, taken: bool) -> None:
    import xgrammar
    from xgrammar.testing import _is_grammar_accept_string

    grammar = xgrammar.Grammar.from_structural_tag(form.after_description(TAGS))
    assert _is_grammar_accept_string(grammar, text) is taken


def test_alone_there_is_nothing_but_the_answer() -> None:
    import xgrammar
    from xgrammar.testing import _is_grammar_accept_string

    grammar = xgrammar.Grammar.from_structural_tag(JSON.alone())
    assert _is_grammar_accept_string(grammar, '{"a": 1}')
    assert not _is_grammar_accept_string(grammar, CHAIN.format('{"a": 1}'))


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strange"}, "can't be used"),
        (
            {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}, {"minLength": 1}]}}},
            "keyword",
        ),
        ({"$ref": "#/$defs/nowhere"}, "can't be used"),
        ({"$ref": "https://schemas.example/a.json"}, "another document"),
        ({"$ref": "#"}, "without end"),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
            "without end",
        ),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "without end"),
        (
            {
                "$ref": "#/$defs/a0",
                "$defs": {f"a{n}": {"$ref": f"#/$defs/a{(n + 1) % 2000}"} for n in range(2000)},
            },
            "without end",
        ),
    ],
)
def test_what_xgrammar_cannot_enforce_is_refused(schema: dict[str, Any], said: str) -> None:
    from mirl_core.engines.vllm.structure import check_structure

    with pytest.raises(RequestError, match=said):
        check_structure(json_schema(schema).after_description(TAGS), "xgrammar")


def test_sound_forms_pass_and_other_backends_are_named() -> None:
    from mirl_core.engines.vllm.structure import check_structure

    tree = {"type": "object", "properties": {"left": {"$ref": "#/$defs/node"}}}
    either = {"anyOf": [{"$ref": "#/$defs/node"}, {"$ref": "#/$defs/leaf"}]}
    definitions = {"node": {"anyOf": [{"$ref": "#/$defs/tree"}, {"$ref": "#/$defs/leaf"}]}, "tree": tree,
                   "leaf": {"type": "string"}}  # fmt: skip
    recursive = json_schema({**either, "$defs": definitions})
    for form in (JSON, json_schema(None), COLOUR, recursive):
        for structure in (form.after_description(TAGS), form.alone()):
            check_structure(structure, "xgrammar")
            with pytest.raises(RequestError, match="outlines"):
                check_structure(structure, "outlines")


def test_vllm_chooses_no_backend_by_its_first_request() -> None:
    from vllm.config import StructuredOutputsConfig

    from mirl_core.engines.vllm.structure import choose_backend

    for configured, used in (("auto", "xgrammar"), ("guidance", "guidance")):
        config = StructuredOutputsConfig(backend=configured)
        choose_backend(config)
        assert config.backend == used


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        (CHAIN.format('{"a": 1}'), True, Extract("so", '{"a": 1}', 26)),
        (CHAIN.format('\n {"a": 1}\n'), True, Extract("so", '{"a": 1}', 28)),
        (CHAIN.format('{"a": "<think>"}'), True, Extract("so", '{"a": "<think>"}', 26)),
        (CHAIN.format('{"a": 1}'), False, Extract("so", None)),
        # The closing tag inside a string ends the chain.
        ('<think>so</think>\n<answer>{"a": "</answer>', True, Extract("so", None)),
        ("<think>so</think> 7", True, Extract("so 7", None)),
        (CHAIN.format(""), True, Extract("so", None)),
        (CHAIN.format("[" * 100_000), True, Extract("so", None)),
    ],
)
def test_what_is_read_of_a_chain(text: str, finished: bool, expected: Extract) -> None:
    assert JSON.read(text, TAGS, finished, alone=False) == expected
    if expected.answer is not None:
        assert text.startswith(expected.answer, expected.start)


def test_what_is_read_alone() -> None:
    assert JSON.read(' {"a": 1}', TAGS, True, alone=True) == Extract("", '{"a": 1}', 1)
    assert JSON.read('{"a":', TAGS, False, alone=True) == Extract("", None)
    assert COLOUR.read(CHAIN.format("dark red"), TAGS, True, alone=False).answer == "dark red"


def test_a_structural_tag_is_json() -> None:
    tag = json.loads(JSON.after_description(Tags(answer=("[A]", "[/A]"))))
    assert tag["format"]["elements"][1]["begin"] == "[A]"
