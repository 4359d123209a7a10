"""The list of vLLM's flags: `cli/flags/vllm.json`, made from the parser of the installed vLLM.

`mirl-serve` checks its command line against the list before it imports vLLM, which takes up to a minute.
Make it anew after a change of the locked vLLM: `python -m mirl_server.vllm.flag_list`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any

from mirl_server.cli.flags.vllm import LIST, Kind, vllm_version

_PROBES = {"text": "x y", "json": "{}", "size": "1k", "float": "1.5", "int": "1"}
"""A value of each kind. The values that a parser's type takes say which kind it is."""


def flag_list() -> dict[str, Any]:
    """Return the installed vLLM's version and flags, in the order of its parser."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from mirl_server.vllm.names import make_arg_parser

    parser = make_arg_parser(FlexibleArgumentParser())
    flags = [_flag(action) for action in parser._actions if action.option_strings and action.dest != "help"]
    return {"vllm": (vllm_version() or "").partition("+")[0], "flags": flags}


def _flag(action: argparse.Action) -> dict[str, Any]:
    """Return what a check of the command line needs of a flag, without the members that say nothing."""
    switch = isinstance(action, argparse.BooleanOptionalAction)
    flag = {
        "names": [name for name in action.option_strings if not (switch and name.startswith("--no-"))],
        "kind": "switch" if switch else "flag" if action.nargs == 0 else _kind(action.type),
        "nargs": action.nargs or None,
        "repeats": type(action).__name__ == "_AppendAction" or None,
        "optional": _takes(action.type, "None") or None,
        "choices": _choices(action),
        "default": action.default if _is_plain(action.default) else None,
    }
    if flag["kind"] in ("text", "flag", "switch"):
        flag["optional"] = None
    return {name: value for name, value in flag.items() if value is not None}


def _kind(kind: Any) -> Kind:
    for name in ("text", "json", "size", "float", "int"):
        if _takes(kind, _PROBES[name]):
            return name
    return "text"


def _takes(kind: Callable[[str], object] | Any, value: str) -> bool:
    """Return whether a parser's type takes a value."""
    if not callable(kind):
        return True
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            kind(value)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False
    return True


def _choices(action: argparse.Action) -> list[str] | None:
    """Return a flag's choices as text; None where it has none, or where its type rewrites values before the
    comparison."""
    choices = [str(choice) for choice in action.choices or () if choice is not None]
    convert = action.type if callable(action.type) else str
    if not choices or str(convert(choices[0].upper())) != choices[0].upper():
        return None
    return choices


def _is_plain(value: object) -> bool:
    """Return whether a default can be compared with a value from a YAML file."""
    return value != argparse.SUPPRESS and (
        isinstance(value, bool | int | float | str) or value == [] or value == ["*"]
    )


def main() -> int:
    """Write the list into the source tree."""
    content = flag_list()
    rows = ",\n".join(json.dumps(flag) for flag in content["flags"])
    LIST.write_text(f'{{"vllm": "{content["vllm"]}", "flags": [\n{rows}\n]}}\n', encoding="utf-8")
    print(f"{LIST}: {len(content['flags'])} flags of vLLM {content['vllm']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
