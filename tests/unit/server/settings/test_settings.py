"""Where the operator's settings come from, who wins, and what is refused at start-up."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from mirl_core.config import Limits, MIRLOptions, ModelSettings
from mirl_core.errors import ConfigError, RequestError
from mirl_server.cli.command import plugin_names
from mirl_server.cli.flags.server import UsageError, mirl_parser, pairs, settings_from_flags
from mirl_server.handling.context import cache_salt
from mirl_server.settings.limits import AccessSettings, AdmissionSettings, HTTPSettings, KeyLimits
from mirl_server.settings.server import ServerSettings, default_options, request_options


def options(model: dict[str, Any] | None = None, **settings: Any) -> MIRLOptions:
    return default_options(
        ModelSettings(options=MIRLOptions(**(model or {}))), ServerSettings.load(**settings)
    )


def test_the_environment_is_read_and_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRL_LIMITS__MAX_KEEP", "8")
    monkeypatch.setenv("MIRL_DEFAULTS__KEEP", "4")
    monkeypatch.setenv("MIRL_KEEP_ALIVE", "3")
    monkeypatch.setenv("MIRL_CALIBRATION", "/somewhere")
    settings = ServerSettings.load(keep_alive=5)
    assert settings.limits.max_keep == 8
    assert settings.keep_alive == 5
    assert settings.calibration == Path("/somewhere")
    assert default_options(ModelSettings(), settings).keep == 4


@pytest.mark.parametrize(
    "flags",
    [{"limits": {"max_kep": 3}}, {"limits": {"max_keep": 0}}, {"defaults": {"kep": 1}}, {"keep_alive": 0}],
)
def test_wrong_settings_are_config_errors(flags: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ServerSettings.load(**flags)


@pytest.mark.parametrize(
    "weight", ["automatic", "Auto", "", -1, True, None, math.nan, math.inf, "nan", [0.5]]
)
def test_a_bad_weight_is_one_sentence_about_one_field(weight: object) -> None:
    with pytest.raises(RequestError) as caught:
        request_options({"mi_weight": weight}, MIRLOptions(), Limits())
    assert caught.value.param == "mirl.mi_weight"
    says = f"mi_weight: Input should be a number of at least 0, or 'auto' (got {weight!r})"
    assert caught.value.message == says
    with pytest.raises(ConfigError, match="Input should be a number of at least 0"):
        ServerSettings.load(defaults={"mi_weight": weight})


def test_a_weight_may_be_auto_wherever_it_is_set(tmp_path: Path) -> None:
    (tmp_path / "mirl.json").write_text('{"options": {"mi_weight": "auto"}}')
    model = ModelSettings.load(tmp_path)
    assert model is not None
    defaults = default_options(model, ServerSettings.load())
    assert defaults.mi_weight == "auto"
    assert request_options({"keep": 2}, defaults, Limits()).mi_weight == "auto"
    assert request_options({"mi_weight": 0.5}, defaults, Limits()).mi_weight == 0.5
    flags = settings_from_flags(mirl_parser().parse_args(["--mirl-default", "mi_weight=auto"]))
    assert default_options(ModelSettings(), ServerSettings.load(**flags)).mi_weight == "auto"
    # As the environment has it.
    assert options(defaults={"mi_weight": "0.5"}).mi_weight == 0.5


def test_request_over_operator_over_model_over_paper() -> None:
    defaults = options({"keep": 5, "forks": 3}, defaults={"keep": 4})
    assert (defaults.descriptions, defaults.keep, defaults.forks) == (10, 4, 3)
    assert request_options({"keep": 2}, defaults, Limits()).keep == 2
    assert request_options(None, defaults, Limits()).forks == 3


def test_defaults_are_lowered_to_the_limits_but_not_the_operators_own() -> None:
    lowered = options(limits={"max_descriptions": 3, "max_keep": 2, "max_forks": 1, "max_total_tokens": 500})
    assert (lowered.descriptions, lowered.keep, lowered.forks, lowered.max_total_tokens) == (3, 2, 1, 500)
    with pytest.raises(ConfigError, match="at most 2"):
        options(limits={"max_keep": 2}, defaults={"keep": 3})


def test_the_token_limit_can_not_be_opened() -> None:
    limits = Limits(max_total_tokens=500)
    defaults = options(limits={"max_total_tokens": 500})
    assert request_options({"max_total_tokens": None}, defaults, limits).max_total_tokens == 500
    with pytest.raises(RequestError, match="at most 500"):
        request_options({"max_total_tokens": 501}, defaults, limits)


def test_flags_become_settings() -> None:
    own, rest = mirl_parser().parse_known_args(
        ["a/model", "--mirl-default", "keep=4", "--mirl-default", "gate=none", "--tensor-parallel-size", "2",
         "--mirl-limit", "max_keep=8", "--mirl-keep-alive", "2", "--no-reasoning-content-alias"]
    )  # fmt: skip
    assert rest == ["a/model", "--tensor-parallel-size", "2"]
    assert settings_from_flags(own) == {
        "defaults": {"keep": 4, "gate": "none"}, "limits": {"max_keep": 8}, "keep_alive": 2.0,
        "reasoning_content": False,
    }  # fmt: skip
    assert settings_from_flags(mirl_parser().parse_args([])) == {}
    with pytest.raises(UsageError):
        pairs(["keep"], "--mirl-default")


def test_the_guards_flags() -> None:
    own = mirl_parser().parse_args([
        "--api-key-file", "keys", "--key-limit", "concurrent=2", "--open-path", "/metrics",
        "--max-queue", "9", "--max-running-sequences", "64", "--http-limit", "max_body_bytes=1000",
    ])  # fmt: skip
    settings = ServerSettings.load(**settings_from_flags(own))
    assert (settings.access.key_file, settings.access.limits.concurrent) == (Path("keys"), 2)
    assert settings.access.open_paths == ("/health", "/ready", "/ping", "/metrics")
    assert (settings.admission.max_queue, settings.admission.max_running_sequences) == (9, 64)
    assert settings.http.max_body_bytes == 1000
    for wrong in (["--max-queue", "few"], ["--key-limit", "concurent=2"], ["--http-limit", "body_seconds=0"]):
        with pytest.raises(ConfigError):
            ServerSettings.load(**settings_from_flags(mirl_parser().parse_args(wrong)))


def test_keys_are_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRL_ACCESS__KEYS", "a: 0123456789abcdef")
    settings = ServerSettings.load()
    assert settings.access.keys is not None
    assert settings.access.keys.get_secret_value() == "a: 0123456789abcdef"
    assert "0123456789abcdef" not in f"{settings!r} {settings.model_dump()} {settings.model_dump_json()}"


def test_other_plugins_stay_enabled() -> None:
    assert plugin_names("a,b") == "a,b,mirl,mirl_orphans"
    assert plugin_names("mirl,a") == "mirl,a,mirl_orphans"
    assert plugin_names("") == "mirl,mirl_orphans"
    assert "mirl" in plugin_names(None).split(",")


def test_every_setting_is_documented() -> None:
    guards = (AccessSettings, AdmissionSettings, HTTPSettings, KeyLimits)
    for model in (ServerSettings, Limits, MIRLOptions, *guards):
        assert all(field.description for field in model.model_fields.values())


def test_cache_salts_separate_keys_and_reveal_none() -> None:
    assert cache_salt(None, None) is None
    assert cache_salt(None, "mine") == "mine"
    salts = {cache_salt(key, own) for key in ("Bearer a", "Bearer b") for own in (None, "mine")}
    assert len(salts) == 4
    assert cache_salt("Bearer a", None) == cache_salt("Bearer a", None)
    assert all(salt and "Bearer" not in salt for salt in salts)


@pytest.mark.parametrize(
    ("most", "contrast", "votes", "descriptions"),
    [
        (32, (0.0, 0.5, 1.0), (2, 2, 1), 8),
        (5, (0.0, 0.5, 1.0), (2, 2, 1), 2),
        (3, (0.0, 0.5, 1.0), (2, 2, 1), 0),
        (2, (0.0, 0.5), (2, 2), 0),
    ],
)
def test_steered_defaults_are_lowered_to_the_limit(
    most: int, contrast: tuple[float, ...], votes: tuple[int, ...], descriptions: int
) -> None:
    lowered = options({"preset": "steered"}, limits={"max_descriptions": most})
    assert (lowered.contrast, lowered.votes, lowered.descriptions) == (contrast, votes, descriptions)
    # A request without knobs is within the limits.
    limits = Limits(max_descriptions=most)
    assert request_options(None, lowered, limits) == lowered
    by_operator = options(defaults={"preset": "steered"}, limits={"max_descriptions": most})
    assert by_operator.contrast == contrast
