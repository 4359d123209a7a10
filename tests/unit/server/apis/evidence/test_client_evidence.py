"""The client reads what the server says, whichever way it is held."""

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from mirl_client import Budget, Chain, Decoding, Description, Evidence, Stage, Switch, Vote, evidence
from mirl_core.config import MIRLOptions
from mirl_server.apis.evidence import budget_of, chain_json, description_json
from tests.unit.server.apis.result_cases import ANSWER, CHAIN, DECODED, KEPT, REPEATED, RESULT
from tests.unit.server.harness import Harness, events


def test_models_name_what_the_server_sends() -> None:
    sent = ANSWER.completion([RESULT])["mirl"]
    assert set(Evidence.model_fields) == set(sent)
    decoded = description_json(DECODED)
    assert set(Description.model_fields) == set(description_json(KEPT)) | set(decoded)
    assert set(Decoding.model_fields) == set(decoded["decoding"])
    assert set(Switch.model_fields) == set(decoded["decoding"]["switches"][0])
    assert set(Chain.model_fields) == set(chain_json(CHAIN))
    assert set(Vote.model_fields) == set(sent["vote"])
    assert set(Stage.model_fields) == set(sent["stages"][0])


def test_models_name_the_budget() -> None:
    gated = budget_of(MIRLOptions())
    assert gated == {"descriptions": 10, "keep": 6, "forks": 2}
    steered = budget_of(MIRLOptions(preset="steered"))
    assert steered == {"decoded": 3, "descriptions": 8}
    assert set(Budget.model_fields) == gated.keys() | steered.keys()
    assert ANSWER.completion([RESULT])["mirl"]["budget"].keys() == gated.keys()


def test_steered_descriptions() -> None:
    decoded, repeated = (
        Description.model_validate(description_json(description)) for description in (DECODED, REPEATED)
    )
    assert (decoded.votes, decoded.repeats, repeated.votes, repeated.repeats) == (2, None, 1, 0)
    assert repeated.decoding is None
    assert decoded.decoding == Decoding(
        mi_weight=0.5,
        rounds=3,
        switches=(
            Switch(position=1, drafted=" one", chosen=" seven", gain=1.5),
            Switch(position=2, drafted="x", chosen="y", gain=None),
        ),
    )


async def test_evidence_of_several_answers(server: Harness) -> None:
    response = (await server.ask(n=2)).json()
    for form in (response, ChatCompletion.model_validate(response)):
        evidences = [evidence(form, choice) for choice in range(2)]
        assert [item.budget == Budget(descriptions=2, keep=1, forks=2) for item in evidences if item] == [
            True,
            True,
        ]
        assert evidence(form) == evidences[0]
        with pytest.raises(IndexError):
            evidence(form, 2)


async def test_evidence_of_json_and_of_openais_objects(server: Harness) -> None:
    response = (await server.ask()).json()
    answer_evidence = evidence(response)
    assert answer_evidence is not None
    assert answer_evidence == evidence(ChatCompletion.model_validate(response))
    assert answer_evidence.best is not None
    assert answer_evidence.best.text == "a red seven"
    assert [description.index for description in answer_evidence.kept] == [0]


async def test_evidence_of_a_stream_is_in_its_last_stage_event(server: Harness) -> None:
    chunks = [ChatCompletionChunk.model_validate(chunk) for chunk in events(await server.ask(stream=True))]
    evidences = [evidence(chunk) for chunk in chunks]
    assert [item is not None for item in evidences].count(True) == 1


def test_plain_answers_have_none() -> None:
    assert evidence({"choices": []}) is None
    assert evidence(object()) is None
