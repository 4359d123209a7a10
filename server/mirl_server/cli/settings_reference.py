"""The generator of docs/configuration.md: `python -m mirl_server.cli.settings_reference`."""

from __future__ import annotations

import argparse
import json
import sys
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic_core import PydanticUndefined, to_jsonable_python

from mirl_core.config import MIRLOptions
from mirl_server.cli.flags.server import mirl_parser
from mirl_server.settings.files import Leaf, leaves
from mirl_server.settings.server import ServerSettings

HEAD = """\
# Configuration

Generated from the code by `python -m mirl_server.cli.settings_reference docs/configuration.md`, which a
test compares it with.

Set a value by a flag, in the environment, or in one YAML file; flags win over the environment, which wins
over the file, key by key. `mirl-serve --config FILE` takes one file for both: `mirl:` holds the settings
below, every other key is a flag of `vllm serve`, as in vLLM's own `--config`:

```yaml
model: org/model
max-model-len: 8192
mirl:
  limits:
    max_keep: 8
  log:
    format: json
```

Under vLLM's own command `MIRL_CONFIG=FILE` names the file; only `mirl:` of it is read then. An unknown key is
an error that names it. `mirl-serve --dry-run` prints the resolved settings, secrets masked, and starts
nothing.

`--mirl-set NAME=VALUE` sets any setting (`--mirl-set log.format=json`); some also have a flag. In the
environment a list or an object is JSON.
"""


def reference() -> str:
    """Return the whole document as Markdown."""
    parts = [HEAD, "## Flags\n", _flags(), "## Settings\n", _settings()]
    parts += ["## Options of a request (`defaults`)\n", _options()]
    return "\n".join(parts)


def _flags() -> str:
    lines = ["| flag | |", "| --- | --- |"]
    actions = [action for group in mirl_parser()._action_groups for action in group._group_actions]
    lines += [f"| `{_usage(action)}` | {_cell(action.help or '')} |" for action in actions]
    return "\n".join(lines) + "\n"


def _usage(action: argparse.Action) -> str:
    value = f" {action.metavar}" if action.metavar else ""
    if action.choices and not action.metavar:
        value = f" {{{','.join(map(str, action.choices))}}}"
    return f"{', '.join(action.option_strings)}{value}"


def _settings() -> str:
    lines = ["| setting | environment | type | default | |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{leaf.name}` | `{leaf.variable}` | {_kind(leaf)} | {_default(leaf)} "
        f"| {_cell(leaf.field.description or '')} |"
        for leaf in leaves(ServerSettings)
    ]
    return "\n".join(lines) + "\n"


def _options() -> str:
    lines = ["| option | type | default | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{leaf.name}` | {_kind(leaf)} | {_default(leaf)} | {_cell(leaf.field.description or '')} |"
        for leaf in leaves(MIRLOptions)
    ]
    return "\n".join(lines) + "\n"


def _kind(leaf: Leaf) -> str:
    return f"{_words(leaf.field.annotation)}{_bounds(leaf)}"


def _words(kind: Any) -> str:
    """Return a type in words: `int or null`, `text or json`, `list of str`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _words(inner[0])
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " or ".join("null" if member is type(None) else _words(member) for member in inner)
    if origin is dict:
        return "mapping"
    if origin is not None:
        return f"{origin.__name__} of {_words(inner[0])}"
    return {Path: "path", SecretStr: "secret", Any: "any"}.get(kind) or str(kind.__name__)


def _bounds(leaf: Leaf) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(constraint, name)}"
        for constraint in leaf.field.metadata
        for name, sign in signs.items()
        if getattr(constraint, name, None) is not None
    ]
    return f", {', '.join(bounds)}" if bounds else ""


def _default(leaf: Leaf) -> str:
    value = leaf.field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "–"
    return _cell(f"`{json.dumps(to_jsonable_python(value), ensure_ascii=False)}`")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Print the reference, or write it to the file that the first argument names."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
    else:
        print(reference(), end="")


if __name__ == "__main__":
    main()
