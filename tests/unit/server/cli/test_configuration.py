"""Flags over environment over one YAML file; the reference; `--dry-run`; masking. For any nested model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field, SecretStr

from mirl_core.config import Settings
from mirl_core.errors import ConfigError
from mirl_server.cli.flags.server import mirl_parser, settings_from_flags
from mirl_server.cli.main import main
from mirl_server.cli.settings_reference import reference
from mirl_server.settings.files import MASK, as_yaml, leaves, merge, nest, stray_variables
from mirl_server.settings.server import ServerSettings

ROOT = Path(__file__).parents[4]


def file(folder: Path, text: str) -> Path:
    path = folder / "mirl.yaml"
    path.write_text(text)
    return path


def test_flags_over_environment_over_file_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(
        tmp_path,
        "port: 9000\n"
        "mirl:\n"
        "  keep_alive: 1\n"
        "  limits: {max_keep: 3, max_forks: 3, max_descriptions: 3}\n"
        "  defaults: {keep: 1, forks: 1}\n"
        "  log: {format: json}\n",
    )
    monkeypatch.setenv("MIRL_LIMITS__MAX_FORKS", "4")
    monkeypatch.setenv("MIRL_LIMITS__MAX_DESCRIPTIONS", "4")
    flags = ["--config", str(path), "--mirl-limit", "max_descriptions=5", "--mirl-default", "forks=2"]
    settings = ServerSettings.load(**settings_from_flags(mirl_parser().parse_args(flags)))
    limits = settings.limits
    assert (limits.max_keep, limits.max_forks, limits.max_descriptions) == (3, 4, 5)
    assert settings.defaults == {"keep": 1, "forks": 2}
    assert (settings.keep_alive, settings.log.format, settings.reasoning_content) == (1, "json", True)
    assert limits.max_images == 8


def test_the_environment_names_the_file_under_vllms_own_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRL_CONFIG", str(file(tmp_path, "mirl: {keep_alive: 3}\n")))
    assert ServerSettings.load().keep_alive == 3


@pytest.mark.parametrize("text", ["", "port: 9000\n", "mirl:\n", "# nothing\n"])
def test_a_file_may_say_nothing_of_mirl(tmp_path: Path, text: str) -> None:
    assert ServerSettings.load(config=file(tmp_path, text)).keep_alive == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "mirl: {limits: {max_kep: 3}}",
            "unknown key 'limits.max_kep'; known keys: max_choices, max_descriptions",
        ),
        ("mirl: {lmits: {}}", "unknown key 'lmits'; known keys: access, admission, calibration"),
        ("mirl: {keep_alive: soon}", "keep_alive: Input should be a valid number"),
        ("mirl: {defaults: {kep: 3}}", "unknown key 'kep'"),
        ("mirl: [1]", "'mirl' in config"),
        ("- 1", "must be a mapping"),
        ("mirl: {\n", "is not YAML, line 2"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert main(["--config", str(file(tmp_path, text)), "--dry-run"]) == 2
    stderr = capsys.readouterr().err
    assert said in stderr
    assert len(stderr.splitlines()) == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        ServerSettings.load(config=tmp_path / "none.yaml")


def test_any_setting_has_a_flag() -> None:
    flags = ["--mirl-set", "limits.max_keep=2", "--mirl-set", "log.requests=false", "--log-format", "json",
             "--mirl-limit", "max_forks=3", "--mirl-set", "log.format=text"]  # fmt: skip
    settings = ServerSettings.load(**settings_from_flags(mirl_parser().parse_args(flags)))
    assert (settings.limits.max_keep, settings.limits.max_forks) == (2, 3)
    # The flag of its own wins over the general one.
    assert (settings.log.requests, settings.log.format) == (False, "json")
    with pytest.raises(ConfigError, match=r"unknown key 'log\.colour'"):
        ServerSettings.load(**settings_from_flags(mirl_parser().parse_args(["--mirl-set", "log.colour=red"])))
    with pytest.raises(ConfigError, match="has a value already"):
        nest({"log": 1, "log.format": "json"})
    assert merge({"a": {"b": 1, "c": 1}}, {"a": {"b": 2}}) == {"a": {"b": 2, "c": 1}}


def test_misspelt_variables_are_listed() -> None:
    variables = {"MIRL_LIMIT__MAX_KEEP": "1", "MIRL_LIMITS__MAX_KEP": "1", "MIRL_DEFAULTS__KEEP": "1",
                 "PATH": "", "MIRL_LIMITS": "{}", "mirl_keep_alive": "3",
                 "MIRL_LOG__FORMAT": "json"}  # fmt: skip
    assert stray_variables(ServerSettings, variables) == ["MIRL_LIMITS__MAX_KEP", "MIRL_LIMIT__MAX_KEEP"]


class Door(Settings):
    """Stands for the nested models that others add."""

    keys: dict[str, SecretStr] = Field(default_factory=dict)
    """Keys by name."""
    keys_file: Path | None = None
    """Where more of them are."""
    api_key: str = ""
    """A secret that somebody typed as text."""
    allow: tuple[str, ...] = ("a",)
    """Hosts."""


class House(ServerSettings):
    """The settings, once somebody has added to them."""

    door: Door | None = None
    """The way in."""


def test_a_model_that_is_added_is_read_shown_and_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(tmp_path, "mirl: {door: {keys: {team-a: sk-one}, api_key: sk-two, allow: [b]}}\n")
    monkeypatch.setenv("MIRL_DOOR__KEYS_FILE", "/keys")
    house = House.load(config=path)
    assert house.door is not None
    assert house.door.keys["team-a"].get_secret_value() == "sk-one"
    assert house.door.keys_file == Path("/keys")
    shown = as_yaml(house, {"api-key": ["sk-three"], "port": 8000})
    assert "sk-" not in shown
    config = yaml.safe_load(shown)
    assert config["mirl"]["door"] == {
        "keys": {"team-a": MASK}, "keys_file": "/keys", "api_key": MASK, "allow": ["b"],
    }  # fmt: skip
    assert config["api-key"] == [MASK]
    assert config["port"] == 8000
    assert {"door.keys", "door.allow"} <= {leaf.name for leaf in leaves(House)}
    assert "MIRL_DOOR__API_KEY" in {leaf.variable for leaf in leaves(House)}


def test_a_wrong_secret_is_not_quoted(tmp_path: Path) -> None:
    path = file(tmp_path, "mirl: {door: {keys: {team-a: [sk-one]}}}\n")
    with pytest.raises(ConfigError) as caught:
        House.load(config=path)
    assert "sk-one" not in str(caught.value)
    assert "door.keys.team-a" in str(caught.value)


def dry_run(*flags: str) -> subprocess.CompletedProcess[str]:
    """`mirl-serve --dry-run` as if vLLM were not installed: what it adds is tested on the real thing."""
    code = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *given: None if name == "vllm" else find(name, *given)
from mirl_server.cli.main import main
sys.exit(main({["--dry-run", *flags]!r}))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_dry_run_prints_a_file_that_says_the_same_again(tmp_path: Path) -> None:
    first = dry_run("--mirl-limit", "max_keep=2", "--log-format", "json", "--mirl-default", "keep=1")
    assert (first.returncode, first.stderr) == (0, "")
    config: dict[str, Any] = yaml.safe_load(first.stdout)
    assert config["mirl"]["limits"]["max_keep"] == 2
    assert config["mirl"]["defaults"] == {"keep": 1}
    again = dry_run("--config", str(file(tmp_path, first.stdout)))
    assert again.stdout == first.stdout


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == reference(), (
        "run python -m mirl_server.cli.settings_reference docs/configuration.md"
    )


def test_the_reference_has_every_setting_and_flag() -> None:
    text = reference()
    for leaf in leaves(ServerSettings):
        assert f"| `{leaf.name}` | `{leaf.variable}` |" in text
        assert leaf.field.description
    for flag in ("--config FILE", "--dry-run", "--mirl-set", "--log-format"):
        assert f"`{flag}" in text
