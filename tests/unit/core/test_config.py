"""Settings: the paper's defaults, every bound, and what is said of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirl_core.config import Limits, MIRLOptions, ModelSettings, Tags
from mirl_core.errors import ConfigError, RequestError

DEFAULTS: dict[str, Any] = {
    "descriptions": 10, "keep": 6, "forks": 2, "adaptive_keep": None, "gate": "mi", "estimator": "text",
    "mi_weight": 1.0, "normalize": "token", "clip": None, "distinct": False, "fork_image": "keep",
    "aggregate": "auto", "early_stop": True, "description_tokens": 128, "timeout": None,
    "max_total_tokens": None, "token_mi": False, "preset": None, "contrast": (), "prior_votes": (),
    "plausibility": 0.1, "certainty": 0.9, "wave": 2, "waves": False, "ahead": 0, "draft_tokens": 8,
    "lookahead": 8, "share_chains": True,
}  # fmt: skip
LIMITS = {
    "max_descriptions": 32, "max_keep": 32, "max_forks": 16, "max_choices": 8, "max_total_tokens": 65536,
    "max_images": 8, "max_image_bytes": 20971520, "max_image_pixels": 40000000,
    "max_total_image_bytes": 52428800, "max_total_image_pixels": 100000000,
}  # fmt: skip


def test_the_defaults_are_the_papers() -> None:
    assert MIRLOptions().model_dump() == DEFAULTS
    assert Limits().model_dump() == LIMITS
    settings = ModelSettings()
    assert settings.options == MIRLOptions()
    assert (settings.temperature, settings.reference_images, settings.calibration) == (1.0, (), None)
    assert settings.tags == Tags(
        description=("<description>", "</description>"),
        reasoning=("<think>", "</think>"),
        answer=("<answer>", "</answer>"),
    )
    assert settings.instruction == (
        "First look: describe what in the image matters for the question, briefly and concretely, inside "
        "<description> and </description>. Then reason step by step inside <think> and </think>. "
        "Give the final answer alone inside <answer> and </answer>."
    )


# field → (the least that is taken, a value that isn't)
BOUNDS: dict[str, tuple[list[Any], list[Any]]] = {
    **{
        name: ([1], [0])
        for name in (
            "descriptions",
            "keep",
            "forks",
            "description_tokens",
            "wave",
            "draft_tokens",
            "lookahead",
        )
    },
    "preset": (["paper", "gate", "waves", "steered", "triple", "fast", None], ["best", 3]),
    "contrast": ([(), (0.0, 2.5), (1.0,) * 8], [0.5, "auto", (1.0,) * 9]),
    "prior_votes": ([()], [2, (1,)]),
    "plausibility": ([1e-9, 1], [0, 1.001]),
    "certainty": ([0.51, 0.999], [0.5, 1]),
    "ahead": ([0, 3], [-1]),
    "share_chains": ([False], ["perhaps"]),
    "waves": ([True], ["perhaps"]),
    "max_total_tokens": ([1, None], [0]),
    "adaptive_keep": ([1e-9, 1, None], [0, 1.001]),
    "clip": ([1e-9, None], [0, -1]),
    "timeout": ([1e-9, None], [0]),
    "mi_weight": ([0, 3.5, "auto"], [-1e-9, float("inf"), float("nan"), "all", True, None]),
    "gate": (["mi", "confidence", "random", "none"], ["best", None]),
    "estimator": (["text", "blank", "reference"], ["image"]),
    "aggregate": (["auto", "majority", "mi_weighted", "best"], ["none"]),
    "normalize": (["token", "sum"], ["word"]),
    "fork_image": (["keep", "drop"], ["blank"]),
    "distinct": ([True], ["perhaps"]),
    "early_stop": ([False], ["perhaps"]),
    "token_mi": ([True], ["perhaps"]),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_of_a_requests_options(name: str) -> None:
    taken, refused = BOUNDS[name]
    assert set(BOUNDS) == set(MIRLOptions.model_fields)
    for value in taken:
        assert getattr(MIRLOptions.parse({name: value}), name) == value
    for value in refused:
        with pytest.raises(RequestError, match=rf"^{name}: .*\(got ") as caught:
            MIRLOptions.parse({name: value})
        assert caught.value.param == f"mirl.{name}"


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_at_least_one(name: str) -> None:
    assert getattr(Limits.model_validate({name: 1}), name) == 1
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Limits.model_validate({name: 0})


def test_a_weight_has_one_problem_whatever_it_is() -> None:
    with pytest.raises(RequestError) as caught:
        MIRLOptions.parse({"mi_weight": True})
    assert caught.value.message == "mi_weight: Input should be a number of at least 0, or 'auto' (got True)"


def test_parse_goes_over_the_models_defaults() -> None:
    defaults = MIRLOptions(keep=3, forks=5)
    assert MIRLOptions.parse(None) == MIRLOptions()
    assert MIRLOptions.parse(None, defaults) is defaults
    assert MIRLOptions.parse({}, defaults) == defaults
    assert MIRLOptions.parse({"forks": 1}, defaults) == MIRLOptions(keep=3, forks=1)
    assert MIRLOptions.parse({"forks": 1}) == MIRLOptions(forks=1)


@pytest.mark.parametrize(
    ("given", "param", "message"),
    [
        ([], "mirl", 'mirl must be an object such as {"keep": 4}'),
        ("mi", "mirl", 'mirl must be an object such as {"keep": 4}'),
        (
            {"kep": 4},
            "mirl.kep",
            (
                "unknown key 'kep'; known keys: adaptive_keep, aggregate, ahead, certainty, clip, contrast, "
                "description_tokens, descriptions, distinct, draft_tokens, early_stop, estimator, "
                "fork_image, forks, gate, keep, lookahead, max_total_tokens, mi_weight, normalize, "
                "plausibility, preset, prior_votes, share_chains, timeout, token_mi, wave, waves "
                "(did you mean keep?)"
            ),
        ),
        (
            {"keep": 0},
            "mirl.keep",
            "keep: Input should be greater than or equal to 1 (got 0)",
        ),
        (
            {"contrast": [0.5, -1]},
            "mirl.contrast.1",
            "contrast.1: Input should be greater than or equal to 0 (got -1)",
        ),
        (
            {"contrast": [True]},
            "mirl.contrast.0",
            "contrast.0: Input should be a number of at least 0 (got True)",
        ),
        (
            {"contrast": [0, 1], "prior_votes": [1]},
            "mirl.prior_votes",
            "prior_votes: Input should have a number of votes for each of the 2 values of contrast (got [1])",
        ),
        (
            {"contrast": [0], "prior_votes": [17]},
            "mirl.prior_votes.0",
            "prior_votes.0: Input should be less than or equal to 16 (got 17)",
        ),
        (
            {"descriptions": 0},
            "mirl.descriptions",
            "descriptions: Input should be at least 1 where contrast is empty (got 0)",
        ),
    ],
)
def test_what_is_said_of_wrong_options(given: object, param: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        MIRLOptions.parse(given)
    assert (caught.value.param, caught.value.message) == (param, message)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(RequestError) as caught:
        MIRLOptions.parse({"gate": "x" * 200})
    assert caught.value.message.endswith("(got '" + "x" * 79 + ")")


def test_values_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        MIRLOptions().keep = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "limit"), [("descriptions", 32), ("keep", 32), ("forks", 16), ("max_total_tokens", 65536)]
)
def test_the_operators_limit_is_the_last_that_passes(name: str, limit: int) -> None:
    Limits().check(MIRLOptions.model_validate({name: limit}))
    with pytest.raises(RequestError) as caught:
        Limits().check(MIRLOptions.model_validate({name: limit + 1}))
    assert caught.value.param == f"mirl.{name}"
    assert caught.value.message == f"mirl.{name} is {limit + 1}; this server allows at most {limit}"


def test_limits_leave_open_what_a_request_leaves_open() -> None:
    options = MIRLOptions()
    assert options.max_total_tokens is None
    Limits(max_total_tokens=1).check(options)  # raises nothing


def written(folder: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "mirl.json").write_text(text, encoding="utf-8")
    return folder


def test_a_models_settings_lie_beside_its_weights(tmp_path: Path) -> None:
    assert ModelSettings.load(tmp_path) is None
    written(
        tmp_path, {"instruction": "Schau zuerst hin: größer?", "reference_images": ["a.png", "b/../c.png"]}
    )
    settings = ModelSettings.load(str(tmp_path))
    assert settings is not None
    assert settings.instruction == "Schau zuerst hin: größer?"
    folder = tmp_path.resolve()
    assert settings.reference_images == (str(folder / "a.png"), str(folder / "c.png"))


@pytest.mark.parametrize(
    ("content", "param", "message"),
    [
        ("{", None, " is not readable JSON: "),
        ({"temperature": -1}, "temperature", "mirl.json: temperature: Input should be greater than"),
        ({"options": {"keep": 0}}, "options.keep", "mirl.json: options.keep: Input should be"),
        (
            {"options": {"kep": 0}},
            "options.kep",
            "mirl.json: unknown key 'options.kep'; known keys: adaptive_keep, aggregate, ahead,",
        ),
        (
            {"frob": 1},
            "frob",
            "unknown key 'frob'; known keys: calibration, instruction, lenient, options, reference_images,",
        ),
        (
            {"calibration": {"intercept": 1, "vote_share": 2}},
            "calibration.distinct_share",
            "calibration.distinct_share: Field required",
        ),
    ],
)
def test_what_is_said_of_a_wrong_file(tmp_path: Path, content: Any, param: str | None, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelSettings.load(written(tmp_path, content))
    assert caught.value.param == param
    assert caught.value.message.startswith(str(tmp_path / "mirl.json"))
    assert message in caught.value.message


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mirl.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match="is not readable JSON"):
        ModelSettings.load(tmp_path)
