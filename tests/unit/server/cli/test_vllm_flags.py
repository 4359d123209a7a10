"""vLLM's flags without vLLM: every listed flag, mistyped ones, values, configuration files."""

from __future__ import annotations

import json
import re
import tomllib
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mirl_core.engines.vllm_versions import SUPPORTED
from mirl_core.errors import ConfigError
from mirl_server.cli.flags import vllm as vllm_flags
from mirl_server.cli.flags.server import UsageError, mirl_parser
from mirl_server.cli.flags.vllm import LIST, check_version, names, read_vllm_flags, similar

ROOT = Path(__file__).parents[4]
LISTED: list[dict[str, Any]] = json.loads(LIST.read_text(encoding="utf-8"))["flags"]
LONG = sorted(name for name in names() if name.startswith("--"))
VALUES: dict[str, Any] = {"int": 7, "float": 0.5, "size": 4096, "json": {"a": 1}, "text": "some"}
WRONG = {"int": "1.5", "float": "half", "size": "4x", "json": "{a"}


def value_of(flag: dict[str, Any]) -> Any:
    """Return a value that a listed flag takes."""
    if "choices" in flag:
        return int(flag["choices"][0]) if flag["kind"] == "int" else flag["choices"][0]
    return VALUES[flag["kind"]]


def key(flag: dict[str, Any]) -> str:
    return next(name for name in flag["names"] if name.startswith("--"))[2:]


@st.composite
def mistyped(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a flag and the same with one slip: a letter left out, doubled, or swapped with the next."""
    right = draw(st.sampled_from([name for name in LONG if len(name) > 6]))
    at = draw(st.integers(2, len(right) - 2))
    slips = (right[:at] + right[at + 1 :], right[:at] + right[at] + right[at:],
             right[:at] + right[at + 1] + right[at] + right[at + 2 :])  # fmt: skip
    wrong = draw(st.sampled_from(slips))
    assume(wrong not in names())
    return right, wrong


@settings(max_examples=30)
@given(mistyped())
def test_a_mistyped_flag_is_refused_with_a_flag_at_least_as_similar(flags: tuple[str, str]) -> None:
    right, wrong = flags
    with pytest.raises(UsageError) as caught:
        read_vllm_flags(["--model", "m", wrong, "1"])
    message = str(caught.value)
    assert message.startswith(f"unrecognized arguments: {wrong}")
    meant = message.partition("did you mean --")[2].rstrip("?)")
    assert f"--{meant}" in LONG

    def likeness(name: str) -> float:
        return SequenceMatcher(None, name, wrong.lstrip("-")).ratio()

    assert meant == right[2:] or likeness(meant) > 0.75


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("--prot", "--port"),
        ("-port", "--port"),
        ("--PORT", "--port"),
        ("--gpu_memory_utilisation", "--gpu-memory-utilization"),
        ("--tensor-parallel", "--tensor-parallel-size"),
        ("--mirl-limits", "--mirl-limit"),
        ("--dryrun", "--dry-run"),
        ("--frobnicate", None),
        ("-z", None),
    ],
)
def test_what_is_meant(wrong: str, meant: str | None) -> None:
    assert similar(wrong, names()) == meant


@settings(max_examples=60)
@given(st.lists(st.sampled_from(LISTED), unique_by=key, min_size=1, max_size=6), st.data())
def test_listed_flags_are_read_the_same_in_every_form(
    flags: list[dict[str, Any]], data: st.DataObject
) -> None:
    """With `=`, with underscores, by a short name, and in a configuration file."""
    words: list[str] = ["m"]
    config: dict[str, Any] = {}
    expected: dict[str, Any] = {"model_tag": "m"}
    for flag in flags:
        name = data.draw(st.sampled_from(flag["names"]))
        if flag["kind"] in ("flag", "switch"):
            words.append(name)
            config[key(flag)] = expected[key(flag)] = True
            continue
        value = value_of(flag)
        text = json.dumps(value) if flag["kind"] == "json" else str(value)
        several = flag.get("nargs") in ("+", "*") or flag.get("repeats")
        if name.startswith("--") and data.draw(st.booleans()):
            words.append(f"--{name[2:].replace('-', '_')}={text}")
        else:
            words += [name, text]
        config[key(flag)] = [value] if several else value
        expected[key(flag)] = [value] if several else value
    assert read_vllm_flags(words).values == expected


def test_a_file_says_what_flags_say_and_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    content = {"port": 9001, "enforce-eager": False, "api-key": ["a", "b"], "seed": 3, "headless": True,
               "compilation-config": {"mode": 3}, "mirl": {"keep_alive": 1}}  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    read = read_vllm_flags(["m", "--port", "9002", "--compilation-config.cache_dir", "/c"], path)
    assert read.model == "m"
    assert read.values == {
        "model_tag": "m", "port": 9002, "enforce-eager": False, "api-key": ["a", "b"], "seed": 3,
        "headless": True, "compilation-config": {"cache_dir": "/c"},
    }  # fmt: skip
    path.write_text("prot: 9001\n")
    with pytest.raises(UsageError, match=r"--prot \(did you mean --port\?\)"):
        read_vllm_flags([], path)
    with pytest.raises(ConfigError, match="yaml"):
        read_vllm_flags([], tmp_path / "serve.json")


@pytest.mark.parametrize("flag", [flag for flag in LISTED if flag["kind"] in WRONG], ids=key)
def test_a_value_of_another_kind_is_refused(flag: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"argument .*--{key(flag)}"):
        read_vllm_flags([f"--{key(flag)}", WRONG[flag["kind"]]])


@pytest.mark.parametrize("flag", [flag for flag in LISTED if "choices" in flag], ids=key)
def test_a_value_that_is_no_choice_is_refused(flag: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"invalid (choice|int value)"):
        read_vllm_flags([f"--{key(flag)}", "nonsense"])


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--log-level", "info"], {"log-level": "INFO"}),
        (["-O3"], {"optimization-level": "3"}),
        (["-O", "2"], {"optimization-level": "2"}),
        (["-tp", "2"], {"tensor-parallel-size": 2}),
        (["--no-enable-prefix-caching"], {"enable-prefix-caching": False}),
        (["--kv-cache-memory-bytes", "1G"], {"kv-cache-memory-bytes": 2**30}),
        (["--max-model-len", "1.5k"], {"max-model-len": 1500}),
        (["--max-model-len", "8192"], {"max-model-len": 8192}),
        (["--max-model-len", "auto"], {"max-model-len": "auto"}),
        (["--max-log-len", "None"], {}),
        (["--limit-mm-per-prompt.image", "2"], {"limit-mm-per-prompt": {"image": 2}}),
        (["-cc.mode=3", "-cc.pass_config.fuse", "true"],
         {"compilation-config": {"mode": 3, "pass_config": {"fuse": True}}}),
        (["-cc.custom_ops+=a,b", "-cc.custom_ops+", "c"],
         {"compilation-config": {"custom_ops": ["a", "b", "c"]}}),
    ],
)  # fmt: skip
def test_forms_that_vllms_parser_takes(words: list[str], values: dict[str, Any]) -> None:
    assert read_vllm_flags(words).values == values


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["m", "n"], "unrecognized arguments: n"),
        (["--portt.x", "3"], r"unrecognized arguments: --portt.x"),
        (["serve", "m"], "leave out 'serve'"),
        (["--port"], "expected one argument"),
    ],
)
def test_what_is_no_flag_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_vllm_flags(words)


def test_another_vllm_may_have_other_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_flags, "vllm_version", lambda: "0.33.1")
    assert read_vllm_flags(["m", "--brand-new", "3"]).unknown == ["--brand-new", "3"]
    with pytest.raises(UsageError, match="invalid int value"):
        read_vllm_flags(["--port", "x"])


def test_no_flag_is_both_vllms_and_mirls() -> None:
    own = set(mirl_parser()._option_string_actions) - {"--config"}
    assert not own & {name for flag in LISTED for name in flag["names"]}


@pytest.mark.parametrize("version", ["0.32.0", "0.32.7", "0.33.0", "0.33.1+cpu", "0.33.2.dev5+gabc", None])
def test_supported_versions_pass(version: str | None) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.31.4", "0.34.0", "0.34.0rc1", "1.0.0", "0.3.2", "dev"])
def test_other_versions_are_refused_by_both_names(version: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"vLLM {version} is installed")) as caught:
        check_version(version)
    assert "runs on 0.32 and 0.33" in str(caught.value)


def test_the_extra_takes_the_supported_versions() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    major, minor = SUPPORTED[-1].split(".")
    assert f"vllm>={SUPPORTED[0]},<{major}.{int(minor) + 1}" in extras["gpu"]
