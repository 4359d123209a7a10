"""DevEvaluation: the pipeline with one trajectory a question, the same questions each time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mirl_core.config import ModelSettings
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import ConfigError, EngineError
from mirl_core.training.rl.dev_evaluation import DEV_QUESTIONS, DEV_RESULTS, DevEvaluation
from mirl_core.training.rl.distributed.process_group import ProcessGroup
from mirl_core.training.rl.report.monitor import read_lines
from tests.unit.evaluation.run.run_cases import data_file
from tests.unit.training.rl.loop_cases import recipe_of

TOTALS = {"generated_tokens": 7, "scored_tokens": 3, "complete_trajectories": 2, "seconds": 1.5}


def engine_of(answer: str = "1", description: str = "a thing</description>") -> FakeEngine:
    return FakeEngine([FakeText(description)], [f"<think>so</think><answer>{answer}</answer>"])


def evaluation_of(
    folder: Path, sets: list[str], step: int = 0, n: int = 6, peers: ProcessGroup | None = None
) -> DevEvaluation:
    recipe = recipe_of(folder, evaluation={"sets": sets, "n": n, "every": 2})
    folder.mkdir(exist_ok=True)
    evaluation = DevEvaluation(recipe, ModelSettings(instruction=""), peers or ProcessGroup())
    evaluation.open(step)
    return evaluation


async def test_an_evaluation_writes_rightness_by_question_and_cost(tmp_path: Path) -> None:
    file = str(data_file(tmp_path / "set" / "q.jsonl", 6))
    evaluation = evaluation_of(tmp_path, [file])
    engine = engine_of()
    figures = await evaluation.evaluate(engine, 4, TOTALS)
    assert figures == {f"look/{file}/accuracy": 1.0}
    (line,) = read_lines(tmp_path / DEV_RESULTS)
    assert line["step"] == 4
    assert line["totals"] == TOTALS
    result = line["sets"][file]
    assert (result["n"], result["accuracy"], result["right"]) == (6, 1.0, "111111")
    assert result["low"] < 1.0 == result["high"]
    assert "described" not in result
    assert {call.kind for call in engine.calls} == {"render", "describe", "fork"}
    assert all(call.n == 1 for call in engine.calls if call.kind in ("describe", "fork"))
    questions = json.loads((tmp_path / DEV_QUESTIONS).read_text())[file]
    assert len(questions["keys"]) == len(questions["clusters"]) == 6
    evaluation.close()


async def test_wrong_answers_and_right_descriptions_are_distinguished(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, ["digits/iid"])
    figures = await evaluation.evaluate(engine_of("no number"), 0, TOTALS)
    assert figures == {"look/digits/iid/accuracy": 0.0, "look/digits/iid/described": 0.0}
    (line,) = read_lines(tmp_path / DEV_RESULTS)
    assert line["sets"]["digits/iid"]["described_right"] == "000000"
    evaluation.close()


async def test_an_unusable_description_is_a_wrong_description(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, ["digits/iid"], n=2)
    figures = await evaluation.evaluate(engine_of("1", "</description>"), 0, TOTALS)
    assert figures["look/digits/iid/described"] == 0.0
    evaluation.close()


async def test_two_evaluations_have_the_same_questions_and_seeds(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, ["digits/iid"])
    engines = [engine_of(), engine_of()]
    for step, engine in enumerate(engines):
        await evaluation.evaluate(engine, step, TOTALS)
    requests = [
        sorted(
            (str(call.sampling), str(call.conversation.messages[0]["content"][1])) for call in engine.calls
        )
        for engine in engines
    ]
    assert requests[0] == requests[1]
    assert len({call.sampling.seed for call in engines[0].calls if call.sampling}) == 12
    evaluation.close()


async def test_due_follows_the_recipe_and_what_is_there(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, ["digits/iid"], n=1)
    assert [step for step in range(7) if evaluation.due(step)] == [0, 2, 4, 6]
    await evaluation.evaluate(engine_of(), 2, TOTALS)
    await evaluation.evaluate(engine_of(), 4, TOTALS)
    assert [step for step in range(7) if evaluation.due(step)] == [0, 6]
    evaluation.close()
    again = evaluation_of(tmp_path, ["digits/iid"], step=3, n=1)
    assert [step for step in range(7) if again.due(step)] == [0, 4, 6]
    again.close()
    none = evaluation_of(tmp_path / "none", [])
    assert not any(none.due(step) for step in range(7))


async def test_ranks_evaluate_their_share_and_put_it_together(tmp_path: Path) -> None:
    file = str(data_file(tmp_path / "set" / "q.jsonl", 5))

    class Second(ProcessGroup):
        """The second of two; the first has evaluated its questions before."""

        def gather(self, value: object) -> list[object]:  # type: ignore[override]
            return [first, value]

    alone = ProcessGroup(0, 2)
    seen: list[object] = []
    alone.gather = lambda value: seen.append(value) or [value, value]  # type: ignore[assignment, func-returns-value, method-assign]
    evaluation = evaluation_of(tmp_path / "a", [file], n=5, peers=alone)
    with pytest.raises(KeyError):
        await evaluation.evaluate(engine_of(), 0, TOTALS)
    (first,) = seen
    assert isinstance(first, dict)
    assert len(first) == 3
    other = evaluation_of(tmp_path / "b", [file], n=5, peers=Second(1, 2))
    assert await other.evaluate(engine_of("2"), 0, TOTALS) == {f"look/{file}/accuracy": 0.6}
    assert not list((tmp_path / "b").iterdir())
    evaluation.close()


async def test_a_failing_engine_leaves_no_line_and_nothing_running(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, ["digits/iid"])
    engine = FakeEngine(
        [FakeText("a thing</description>")], ["<answer>1</answer>"], fail_at={"fork": EngineError("gone")}
    )
    with pytest.raises(EngineError):
        await evaluation.evaluate(engine, 0, TOTALS)
    assert engine.running == 0
    assert read_lines(tmp_path / DEV_RESULTS) == []
    assert evaluation.due(0)
    evaluation.close()


def test_unknown_data_come_out_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no part"):
        DevEvaluation(
            recipe_of(tmp_path, evaluation={"sets": ["digits/iid"], "part": "train"}),
            ModelSettings(),
            ProcessGroup(),
        )


async def test_nothing_is_cut_off_before_the_run_knows_where_it_stands(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, ["digits/iid"], n=1)
    await evaluation.evaluate(engine_of(), 2, TOTALS)
    evaluation.close()
    DevEvaluation(recipe_of(tmp_path, evaluation={"sets": ["digits/iid"]}), ModelSettings(), ProcessGroup())
    assert len(read_lines(tmp_path / DEV_RESULTS)) == 1


def files(folder: Path) -> dict[str, bytes]:
    """The files of a run's evaluations."""
    return {path.name: path.read_bytes() for path in folder.glob("looks*")}


def changed_text(line: dict[str, Any]) -> None:
    line["question"] += " Or not?"


def changed_truth(line: dict[str, Any]) -> None:
    line["answer"] = "2"


def changed_picture(line: dict[str, Any]) -> None:
    line["image"] = "other.png"


def changed_key(line: dict[str, Any]) -> None:
    line["id"] = "another"


@pytest.mark.parametrize("change", [changed_text, changed_truth, changed_picture, changed_key])
async def test_a_run_is_evaluated_on_the_questions_that_it_began_with(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    file = data_file(tmp_path / "set" / "q.jsonl", 6)
    Image.new("RGB", (8, 8), (30, 30, 200)).save(tmp_path / "set" / "other.png")
    evaluation = evaluation_of(tmp_path, [str(file)])
    await evaluation.evaluate(engine_of(), 0, TOTALS)
    evaluation.close()
    kept = files(tmp_path)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines[3])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match="are not those of the run's earlier evaluations") as caught:
        evaluation_of(tmp_path, [str(file)], step=0)
    assert caught.value.param == "evaluation.sets"
    assert files(tmp_path) == kept
    # What an earlier version wrote holds keys alone.
    questions = json.loads(kept[DEV_QUESTIONS])
    del questions[str(file)]["contents"]
    (tmp_path / DEV_QUESTIONS).write_text(json.dumps(questions))
    if change is changed_key:
        with pytest.raises(ConfigError, match="earlier evaluations"):
            evaluation_of(tmp_path, [str(file)], step=0)
    else:
        evaluation_of(tmp_path, [str(file)], step=0).close()
    (tmp_path / DEV_QUESTIONS).write_text("{")
    with pytest.raises(ConfigError, match=r"looks-questions\.json can't be read"):
        evaluation_of(tmp_path, [str(file)], step=0)
    # Without results there is nothing to mix them with.
    (tmp_path / DEV_RESULTS).unlink()
    evaluation_of(tmp_path, [str(file)], step=0).close()
