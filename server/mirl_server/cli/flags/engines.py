"""The flags of `mirl-serve` that make it a gateway before vLLM servers elsewhere."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from mirl_server.settings.engines import EngineMode


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the group `gateway` to `parser`."""
    group = parser.add_argument_group(
        "gateway", "With --engine-url no engine runs here, and vLLM is not needed (see docs/gateway.md)."
    )
    group.add_argument(
        "--engine-url", metavar="URL", action="append", default=[],
        help="the base URL of a vLLM server, http://HOST:PORT; repeatable, for servers of one model",
    )  # fmt: skip
    group.add_argument(
        "--engine-mode", choices=get_args(EngineMode),
        help="tokens (default): servers with --enable-scale-out; chat: any vLLM servers, not token-exact",
    )  # fmt: skip
    group.add_argument(
        "--engine-api-key", metavar="KEY",
        help="the gateway's own key at the servers; better in the environment, as MIRL_ENGINE__API_KEY",
    )  # fmt: skip
    group.add_argument(
        "--engine-model", metavar="NAME", help="the model, where the servers list several; default the first"
    )
    group.add_argument(
        "--engine-tokenizer", metavar="PATH",
        help="folder, hub or bundled name of the model's tokenizer and mirl.json; default: the servers' name",
    )  # fmt: skip


def read_engine_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Return the flags' values as fields of EngineSettings, without the flags that are absent."""
    fields = {
        "urls": args.engine_url,
        "mode": args.engine_mode,
        "api_key": args.engine_api_key,
        "model": args.engine_model,
        "tokenizer": args.engine_tokenizer,
    }
    return {name: value for name, value in fields.items() if value}
