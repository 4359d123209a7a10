"""The client reads what the server says, whichever way it is held."""

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mirl_client import Budget, Chain, Description, Evidence, Stage, Vote, evidence
from mirl_server.apis.evidence import chain_json, description_json
from tests.unit.server.apis.result_cases import ANSWER, CHAIN, KEPT, RESULT
from tests.unit.server.harness import Harness, events


def test_models_name_what_the_server_sends() -> None:
    told = ANSWER.completion([RESULT])["mirl"]
    assert set(Evidence.model_fields) == set(told)
    assert set(Description.model_fields) == set(description_json(KEPT))
    assert set(Chain.model_fields) == set(chain_json(CHAIN))
    assert set(Vote.model_fields) == set(told["vote"])
    assert set(Stage.model_fields) == set(told["stages"][0])


def test_models_name_the_budget() -> None:
    assert set(Budget.model_fields) == set(ANSWER.completion([RESULT])["mirl"]["budget"])


async def test_evidence_of_several_answers(server: Harness) -> None:
    response = (await server.ask(n=2)).json()
    for form in (response, ChatCompletion.model_validate(response)):
        found = [evidence(form, choice) for choice in range(2)]
        assert [one.budget == Budget(descriptions=2, keep=1, forks=2) for one in found if one] == [True, True]
        assert evidence(form) == found[0]
        with pytest.raises(IndexError):
            evidence(form, 2)


async def test_evidence_of_json_and_of_openais_objects(server: Harness) -> None:
    response = (await server.ask()).json()
    found = evidence(response)
    assert found is not None
    assert found == evidence(ChatCompletion.model_validate(response))
    assert found.best is not None
    assert found.best.text == "a red seven"
    assert [one.index for one in found.kept] == [0]


async def test_evidence_of_a_stream_is_in_its_last_stage_event(server: Harness) -> None:
    chunks = [ChatCompletionChunk.model_validate(chunk) for chunk in events(await server.ask(stream=True))]
    found = [evidence(chunk) for chunk in chunks]
    assert [one is not None for one in found].count(True) == 1


def test_plain_answers_have_none() -> None:
    assert evidence({"choices": []}) is None
    assert evidence(object()) is None
