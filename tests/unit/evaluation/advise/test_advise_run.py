"""`mirl-eval advise` from the command line to its files, on a scripted engine."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mirl_core.config import MIRLOptions, ModelSettings
from mirl_core.engines.fake import FakeEngine
from mirl_core.evaluation.advise.run import UNDECIDED, AdviseSettings, advise_run
from mirl_core.evaluation.cli import main
from mirl_core.types import Conversation
from tests.unit.evaluation.run.run_cases import data_file, engine_factory, model_folder, no_engine
from tests.unit.pipeline.pipeline_cases import chain, described
from tests.unit.pipeline.steered.steered_cases import TinyModel

RIGHT, OTHER = "a red cat", "a red dog"


def engine(greedy: str) -> FakeEngine:
    """Samples lead to the answer 1; whatever is decoded leads to the answer `greedy`."""

    # All questions show the same picture, and decode the same.
    known: dict[tuple[bool, tuple[int, ...]], Mapping[int, float]] = {}

    class Decoding(TinyModel):
        def likeliest(self, conversation: Conversation, suffix: tuple[int, ...]) -> Mapping[int, float]:
            key = (bool(conversation.images), suffix)
            if key not in known:
                known[key] = super().likeliest(conversation, suffix)
            return known[key]

        def _chain(self, suffix: str, number: int) -> str:
            del number
            return chain("1" if RIGHT in suffix or OTHER in suffix else greedy)

    return Decoding(1, samples=[described(RIGHT), described(OTHER)]).engine


def case(tmp_path: Path, count: int, **changed: Any) -> AdviseSettings:
    data = data_file(tmp_path / "set" / "q.jsonl", count)
    defaults: dict[str, Any] = {
        "model": model_folder(tmp_path / "tiny"),
        "data": (str(data),),
        "output": tmp_path / "out",
        "replays": 1,
    }
    return AdviseSettings(**(defaults | changed))


def without_answers(path: Path, keep: int = 0) -> None:
    """Take the answers of all lines but the first `keep` away."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[keep:]:
        del line["answer"]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")


async def test_the_second_run_samples_nothing_and_says_the_same(tmp_path: Path) -> None:
    settings = case(tmp_path, 50)
    first = await advise_run(settings, engine_factory(engine("2")))
    record = (tmp_path / "out" / "advice.json").read_bytes()
    second = await advise_run(settings, no_engine())
    assert second == first
    assert (tmp_path / "out" / "advice.json").read_bytes() == record
    assert first.advised is not None
    # Samples are right and decodes are wrong: votes of four are the cheapest that reach all votes.
    assert first.advised.name == "sc@4"
    assert first.figures("greedy").accuracy is not None
    assert first.measures["votes_over_greedy"].estimate.mean == 1
    assert first.measures["distinct"].estimate.mean == 2
    assert len((tmp_path / "out" / "questions" / "q.jsonl.jsonl").read_text().splitlines()) == 50


async def test_more_questions_sample_the_new_ones_alone(tmp_path: Path) -> None:
    await advise_run(case(tmp_path, 8), engine_factory(engine("1")))
    more = engine("1")
    await advise_run(case(tmp_path, 10), engine_factory(more))
    assert (
        len({call.request_id.split("-greedy")[0] for call in more.calls if "greedy" in call.request_id}) == 2
    )


async def test_questions_may_get_their_answers_later(tmp_path: Path) -> None:
    settings = case(tmp_path, 50)
    file = tmp_path / "set" / "q.jsonl"
    answered = file.read_text()
    without_answers(file)
    blind = await advise_run(settings, engine_factory(engine("2")))
    assert (blind.labelled, blind.advised) == (0, None)
    assert "greedy" not in blind.measures
    file.write_text(answered)
    labelled = await advise_run(settings, no_engine())
    assert labelled.labelled == 50
    assert labelled.advised is not None
    assert labelled.advised.name == "sc@4"
    assert labelled.measures["greedy"].estimate.mean == 0
    assert labelled.measures["slips"] == blind.measures["slips"]


async def test_a_target_gets_the_options_and_keeps_the_rest(tmp_path: Path) -> None:
    target = tmp_path / "new" / "mirl.json"
    calibration = {"intercept": 1, "vote_share": 1, "distinct_share": 1}
    settings = case(tmp_path, 50, target=target)
    model_folder(
        settings.model,
        temperature=0.7,
        options={"keep": 3, "description_tokens": 60},
        calibration=calibration,
    )
    await advise_run(settings, engine_factory(engine("2")))
    assert json.loads(target.read_text()) == {
        "instruction": "",
        "temperature": 0.7,
        "options": {"gate": "none", "descriptions": 4, "forks": 1, "description_tokens": 60},
    }
    # The model's own file is left alone.
    assert json.loads((settings.model / "mirl.json").read_text())["calibration"] == calibration
    assert json.loads((tmp_path / "out" / "bank" / "bank.json").read_text())["plan"]["temperature"] == 0.7


def test_the_bank_has_what_the_models_settings_need(tmp_path: Path) -> None:
    plain = case(tmp_path, 1).run_settings(ModelSettings())
    assert (plain.estimators, plain.references) == (("text",), 8)
    pictures = ModelSettings(reference_images=("a.png", "b.png"), options=MIRLOptions(estimator="reference"))
    run = case(tmp_path, 1).run_settings(pictures)
    assert (run.estimators, run.references) == (("reference", "text"), 2)


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command in this process: (exit code, standard output, standard error)."""

    def run(
        *words: str | Path, with_engine: FakeEngine | None = None, command: Sequence[str] = ()
    ) -> tuple[int, str, str]:
        factory = no_engine() if with_engine is None else engine_factory(with_engine)
        for module in ("advise", "calibration"):
            monkeypatch.setattr(f"mirl_core.evaluation.{module}.run.vllm_engine", lambda model: factory)
        monkeypatch.setattr(sys, "argv", list(command) or ["mirl-eval", "advise", *map(str, words)])
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        return int(exited.value.code or 0), out, err

    return run


def words_of(tmp_path: Path, count: int, *more: str | Path) -> list[str | Path]:
    settings = case(tmp_path, count)
    return [
        "--model",
        settings.model,
        "--data",
        settings.data[0],
        "--output",
        settings.output,
        "--replays",
        1,
        *more,
    ]


def test_advice_exits_with_0_and_names_the_next_command(tmp_path: Path, cli: Cli) -> None:
    target = tmp_path / "mirl.json"
    words = words_of(tmp_path, 50, "--seed", "3", "--output-settings", target)
    code, out, _ = cli(*words, with_engine=engine("2"))
    assert code == 0
    assert "USE SC@4" in out
    assert "greedy by +100.0 [+85.8, +100.0]" in " ".join(out.split())
    assert json.loads(target.read_text())["options"]["descriptions"] == 4
    again = cli(*words)
    assert (again[0], again[1]) == (0, out)
    # The calibration replays the same bank, and refuses these votes alone.
    (command,) = [line for line in out.splitlines() if "mirl-eval calibrate --confidence-only" in line]
    code, _, err = cli(command=shlex.split(command))
    assert code == 2
    assert "every vote was right" in err


def test_without_a_target_the_options_are_printed(tmp_path: Path, cli: Cli) -> None:
    # 50 questions with the same answers would leave 7 points open.
    code, out, _ = cli(*words_of(tmp_path, 80), with_engine=engine("1"))
    assert code == 0
    assert "USE GREEDY" in out
    assert '{"preset": "fast", "contrast": [0.0]}' in out
    assert not (tmp_path / "mirl.json").exists()


@pytest.mark.parametrize(("answers", "words"), [(20, "TOO FEW QUESTIONS"), (0, "NO ANSWERS")])
def test_a_sample_that_decides_nothing_exits_with_3(
    tmp_path: Path, cli: Cli, answers: int, words: str
) -> None:
    target = tmp_path / "mirl.json"
    command = words_of(tmp_path, 20, "--output-settings", target)
    without_answers(tmp_path / "set" / "q.jsonl", keep=answers)
    code, out, _ = cli(*command, with_engine=engine("2"))
    assert code == UNDECIDED == 3
    assert words in out
    assert "is not written" in out
    assert not target.exists()
    assert (tmp_path / "out" / "advice.md").is_file()


def test_help_names_the_exit_codes_and_calibrate(cli: Cli) -> None:
    code, out, _ = cli("--help")
    assert code == 0
    text = " ".join(out.replace("│", " ").split())
    assert "Exit codes: 0: advice; 1: the engine failed; 2: bad input; 3: the sample decides nothing" in text
    assert "mirl-eval calibrate" in text


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--data", "digits/ood"], "digits/ood"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--model", "{tmp}"], "config.json"),
        (["--part", "train", "--data", "digits/iid"], "train"),
        (["--n", "0"], "greater than or equal to 1"),
        (["--tolerance", "5"], "smallest_gain"),
        (["--smallest-gain", "1"], "smallest_gain"),
        (["--output-settings", "{tmp}"], "is a folder"),
        (["--output-settings", "{tmp}/broken.json"], "not readable JSON"),
        (["--output-settings", "{tmp}/wrong.json"], "keeep"),
        (["--output", "{tmp}/broken.json"], "is a file"),
        (["--mapping", "{tmp}/x.yaml", "--data", "hf:nothing"], "mapping"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_before_the_model_loads(
    tmp_path: Path, cli: Cli, more: list[str], says: str
) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "wrong.json").write_text('{"options": {"keeep": 3}}')
    code, out, err = cli(*words_of(tmp_path, 3, *(word.format(tmp=tmp_path) for word in more)))
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert says in err
    assert not (tmp_path / "out").exists()


def test_a_model_that_samples_greedily_is_refused(tmp_path: Path, cli: Cli) -> None:
    words = words_of(tmp_path, 3)
    model_folder(tmp_path / "tiny", temperature=0)
    code, _, err = cli(*words)
    assert code == 2
    assert "temperature" in err


def test_a_line_with_a_wrong_answer_field_is_still_refused(tmp_path: Path, cli: Cli) -> None:
    words = words_of(tmp_path, 3)
    file = tmp_path / "set" / "q.jsonl"
    file.write_text(file.read_text().replace('"answer": "1"', '"answer": ""', 1))
    code, _, err = cli(*words)
    assert code == 2
    assert "line 1: answer" in err
