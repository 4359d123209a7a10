"""The flags of `mirl-serve` about keys, connections and admission."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mirl_server.settings.limits import AccessSettings, AdmissionSettings, HTTPSettings, KeyLimits

Pairs = Callable[[Sequence[str], str], dict[str, Any]]


def add_limit_flags(parser: argparse.ArgumentParser) -> None:
    """Add the groups `access` and `load` to `parser`."""
    access = parser.add_argument_group("access", "vLLM's --api-key gives keys too, without names.")
    access.add_argument(
        "--api-key-file", metavar="PATH", type=Path,
        help="API keys, one `name: key` a line, or with limits for each; read again when it changes",
    )  # fmt: skip
    access.add_argument(
        "--key-limit", metavar="LIMIT=VALUE", action="append", default=[],
        help=f"limits of a key that sets none; limits: {', '.join(KeyLimits.model_fields)}",
    )  # fmt: skip
    access.add_argument(
        "--open-path", metavar="PATH", action="append", default=[],
        help="one more path that needs no key (/metrics); /health, /ready and /ping never do",
    )  # fmt: skip
    load = parser.add_argument_group("load")
    for field, metavar in (("max_running_sequences", "N"), ("max_queue", "N"), ("queue_seconds", "SECONDS")):
        description = AdmissionSettings.model_fields[field].description or ""
        flag = "--" + field.replace("_", "-")
        load.add_argument(flag, metavar=metavar, help=" ".join(description.split()).replace("%", "%%"))
    load.add_argument(
        "--http-limit", metavar="LIMIT=VALUE", action="append", default=[],
        help=f"a limit of every connection; limits: {', '.join(HTTPSettings.model_fields)}",
    )  # fmt: skip


def read_limit_flags(args: argparse.Namespace, pairs: Pairs) -> dict[str, Any]:
    """Return the flags' values as fields of ServerSettings, without the flags that are absent.

    Args:
        pairs: turns `KEY=VALUE` flags into a dict.
    """
    access: dict[str, Any] = {
        "key_file": args.api_key_file,
        "limits": pairs(args.key_limit, "--key-limit"),
        "open_paths": (*AccessSettings().open_paths, *args.open_path) if args.open_path else (),
    }
    load = {name: getattr(args, name) for name in ("max_running_sequences", "max_queue", "queue_seconds")}
    settings = {
        "access": {name: value for name, value in access.items() if value},
        "admission": {name: value for name, value in load.items() if value is not None},
        "http": pairs(args.http_limit, "--http-limit"),
    }
    return {name: fields for name, fields in settings.items() if fields}
