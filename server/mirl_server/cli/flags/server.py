"""MIRL's own flags of `mirl-serve`, and their values as settings. Does not import vLLM."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mirl_core.config import Limits, MIRLOptions
from mirl_server.cli.flags.engines import add_engine_flags, read_engine_flags
from mirl_server.cli.flags.limits import add_limit_flags, read_limit_flags
from mirl_server.media.rules import ImageFetching
from mirl_server.settings.files import merge, nest

FETCH_SETTINGS = [
    name for name in ImageFetching.model_fields if name not in ("allow_hosts", "deny_hosts", "allow_private")
]
EPILOG = """\
Every flag of `vllm serve` is accepted too, with the same meaning:
  mirl-serve --help=all           all flags
  mirl-serve --help=ModelConfig   one group of them
  mirl-serve --help=max-model-len one flag

Two models are bundled: `mirl-charts`, which is served without a model, and `mirl-tiny`. The
server listens on 127.0.0.1 port 8000 unless --host and --port say otherwise. vLLM's own log is
left out, but for warnings and errors: --log-level info shows all of it.
"""


class UsageError(Exception):
    """The command line is wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def mirl_parser() -> argparse.ArgumentParser:
    """Return the parser of MIRL's own flags."""
    parser = _Parser(
        prog="mirl-serve",
        usage="mirl-serve [MODEL] [MIRL's flags] [any flag of vllm serve]",
        description="Serve a vision-language model that looks before it reasons, to OpenAI clients.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    general = parser.add_argument_group("general")
    general.add_argument("--help", "-h", action="store_true", help="show this text and exit")
    general.add_argument("--version", action="store_true", help="show the versions and exit")
    general.add_argument(
        "--config", metavar="FILE", type=Path,
        help="a YAML file: MIRL's settings under mirl:, every other key is a flag of vllm serve",
    )  # fmt: skip
    general.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved settings, secrets masked, and start nothing",
    )
    general.add_argument("--log-format", choices=("text", "json"), help="how log lines look; default text")
    mirl = parser.add_argument_group("MIRL", "Also read from the environment, as MIRL_… (see README).")
    mirl.add_argument(
        "--mirl-set", metavar="NAME=VALUE", action="append", default=[],
        help="any setting by its dotted name, such as log.format=json; docs/configuration.md lists them",
    )  # fmt: skip
    mirl.add_argument(
        "--mirl-default", metavar="OPTION=VALUE", action="append", default=[],
        help=f"an option that a request leaves out; options: {', '.join(MIRLOptions.model_fields)}",
    )  # fmt: skip
    mirl.add_argument(
        "--mirl-limit", metavar="LIMIT=VALUE", action="append", default=[],
        help=f"a limit of every request; limits: {', '.join(Limits.model_fields)}",
    )  # fmt: skip
    mirl.add_argument(
        "--mirl-calibration", metavar="PATH", type=Path,
        help="a mirl.json (or its folder) in place of the one beside the weights",
    )  # fmt: skip
    mirl.add_argument(
        "--mirl-keep-alive", metavar="SECONDS", type=float,
        help="seconds without a chunk after which a stream sends a comment; default 10",
    )  # fmt: skip
    mirl.add_argument(
        "--shutdown-seconds", metavar="SECONDS", type=float,
        help="seconds that running requests may continue after a stop signal; default 20",
    )  # fmt: skip
    mirl.add_argument(
        "--no-reasoning-content-alias", action="store_true",
        help="send the reasoning as `reasoning` only, not as `reasoning_content` too",
    )  # fmt: skip
    mirl.add_argument(
        "--no-playground", action="store_true",
        help="serve a short start page at / in place of the playground",
    )  # fmt: skip
    _add_image_flags(parser)
    add_limit_flags(parser)
    add_engine_flags(parser)
    return parser


def _add_image_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where images may be fetched from."""
    images = parser.add_argument_group("images by URL", "Off until a host is allowed (see docs/serving.md).")
    images.add_argument(
        "--allow-image-host", metavar="HOST", action="append", default=[],
        help="fetch images from HOST: example.com, *.example.com, example.com:8443, or * for all; repeatable",
    )  # fmt: skip
    images.add_argument(
        "--deny-image-host", metavar="HOST", action="append", default=[],
        help="never fetch from HOST, or from addresses in a network such as 10.1.0.0/16; repeatable",
    )  # fmt: skip
    images.add_argument(
        "--allow-private-image-hosts", action="store_true",
        help="let allowed hosts that are named (not *) have private addresses: stores in the cluster",
    )  # fmt: skip
    images.add_argument(
        "--image-fetch", metavar="SETTING=VALUE", action="append", default=[],
        help=f"how to fetch; settings: {', '.join(FETCH_SETTINGS)}",
    )  # fmt: skip


def image_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the image flags' values as fields of ImageFetching.

    Raises:
        UsageError: `--image-fetch` names no setting of ImageFetching.
    """
    fields = pairs(args.image_fetch, "--image-fetch")
    for name in fields:
        if name not in FETCH_SETTINGS:
            raise UsageError(f"--image-fetch has no setting {name!r}; it has {', '.join(FETCH_SETTINGS)}")
    hosts = {"allow_hosts": args.allow_image_host, "deny_hosts": args.deny_image_host}
    fields |= {name: patterns for name, patterns in hosts.items() if patterns}
    return {**fields, "allow_private": True} if args.allow_private_image_hosts else fields


def settings_from_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Return the flags' values as fields of ServerSettings, without the flags that are absent.

    Raises:
        UsageError: a flag is not KEY=VALUE, or names no setting.
    """
    fields: dict[str, Any] = {
        "config": args.config,
        "log": {"format": args.log_format} if args.log_format else {},
        "defaults": pairs(args.mirl_default, "--mirl-default"),
        "limits": pairs(args.mirl_limit, "--mirl-limit"),
        "calibration": args.mirl_calibration,
        "keep_alive": args.mirl_keep_alive,
        "shutdown_seconds": args.shutdown_seconds,
        "images": image_settings(args),
        "engine": read_engine_flags(args),
        **read_limit_flags(args, pairs),
    }
    settings = {name: value for name, value in fields.items() if value not in (None, {})}
    if args.no_reasoning_content_alias:
        settings["reasoning_content"] = False
    if args.no_playground:
        settings["playground"] = False
    return merge(nest(pairs(args.mirl_set, "--mirl-set")), settings)


def pairs(items: Sequence[str], flag: str) -> dict[str, Any]:
    """Return `KEY=VALUE` flags as a dict; a value that is valid JSON is decoded, any other is text.

    Raises:
        UsageError: an item has no `=`.
    """
    values: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"{flag} takes KEY=VALUE, not {item!r}")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return values
