"""The gateway's process: from its flags to its exit code.

Exit codes are those of `mirl-serve`: 0 a stop by a signal; 2 an error in the command line or a setting.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from mirl_core import __version__
from mirl_core.engines.remote.server import checked_url
from mirl_server.access.keys import make_keyring
from mirl_server.assembly.stopping import stopping, until_listening
from mirl_server.cli.early_checks import address_problem, check_address, check_tls, check_tracing
from mirl_server.cli.flags.server import UsageError
from mirl_server.cli.flags.vllm import VLLMFlags
from mirl_server.gateway.app import Gateway, make_gateway
from mirl_server.gateway.flags import GatewayFlags, gateway_flags
from mirl_server.http.uvicorn_protocol import http_protocol
from mirl_server.observability.logs import LOGGERS, json_formatter
from mirl_server.observability.serving_summary import base_url
from mirl_server.settings.files import as_yaml
from mirl_server.settings.server import ServerSettings, load_calibration

logger = logging.getLogger(__name__)

SUMMARY_POLL_SECONDS = 0.2
BACKLOG = 2048
"""uvicorn's default."""
LINE = "%(levelname)s %(asctime)s [%(filename)s:%(lineno)d] %(message)s"


def check_gateway(flags: VLLMFlags, settings: ServerSettings, *, to_start: bool) -> GatewayFlags:
    """Return the gateway's flags, once all that can be checked without the engines is.

    Args:
        to_start: also check what only a start needs: the address.

    Raises:
        UsageError: a flag is an engine's, its value is wrong, or the gateway can't listen on the address.
        ConfigError: a setting, the key file or the `mirl.json` is wrong.
    """
    chosen = gateway_flags(flags)
    for url in settings.engine.urls:
        checked_url(url)
    make_keyring(settings.access)
    if settings.calibration is not None:
        load_calibration(settings.calibration)
    check_tls(flags.values)
    check_tracing(flags.values)
    if to_start:
        check_address(chosen["host"], chosen["port"], chosen["uds"])
    return chosen


def dry_run(flags: VLLMFlags, settings: ServerSettings) -> str:
    """Return MIRL's settings and the changed flags as a file for `--config`, secrets masked.

    Raises: as `check_gateway`.
    """
    return as_yaml(settings, check_gateway(flags, settings, to_start=False).changed)


def serve(flags: VLLMFlags, settings: ServerSettings) -> int:
    """Run the gateway to its end; return the exit code.

    Raises: as `check_gateway`.
    """
    chosen = check_gateway(flags, settings, to_start=True)
    keep_torch_out()
    os.environ.setdefault("OTEL_SERVICE_NAME", "mirl")
    configure_logs(settings, chosen["log-level"])
    listening = None if chosen["uds"] else _listen(chosen["host"], chosen["port"])
    gateway = make_gateway(settings, chosen)
    gateway.assembly.warn_if_open(chosen["host"], chosen["uds"])
    server = uvicorn.Server(_config(gateway, chosen, settings))
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(gateway, server, listening, chosen))
    finally:
        if chosen["uds"]:
            Path(chosen["uds"]).unlink(missing_ok=True)
    return 0


async def _run(
    gateway: Gateway, server: uvicorn.Server, listening: socket.socket | None, flags: GatewayFlags
) -> None:
    announcing = asyncio.create_task(_announce(gateway, server, listening, flags))

    def end(_: asyncio.Task[None]) -> None:
        server.should_exit = True

    announcing.add_done_callback(end)
    try:
        await server.serve(sockets=[listening] if listening is not None else None)
    finally:
        announcing.cancel()
        with suppress(asyncio.CancelledError):
            await announcing


async def _announce(
    gateway: Gateway, server: uvicorn.Server, listening: socket.socket | None, flags: GatewayFlags
) -> None:
    """Take over the signals once the gateway listens, and print what it serves once an engine is ready."""
    await until_listening(server)
    host, port = listening.getsockname()[:2] if listening is not None else ("", 0)
    url = flags["uds"] or base_url(host, port, bool(flags["ssl-certfile"]))
    async with stopping(gateway.life, server):
        text = gateway.service.settings.log.format == "text"
        if text:
            count = len(gateway.engines.settings.urls)
            print(f"mirl-serve {__version__} listens at {url}, before {count} engine(s) …", flush=True)
        while not gateway.service.names:  # noqa: ASYNC110 - a start is no time to save milliseconds
            await asyncio.sleep(SUMMARY_POLL_SECONDS)
        service = gateway.service
        if (reason := gateway.engines.inexact_reason()) is not None:
            logger.warning("%s", reason)
        if text and service.pipeline is not None:
            serving = gateway.assembly.serving(
                service.names[0], service.pipeline.settings, service.options, quiet=False
            )
            print(serving.summary(url), flush=True)
        await asyncio.Event().wait()  # the signals are handled until this task is cancelled


def keep_torch_out() -> None:
    """Keep torch from this process where it is installed: transformers would import it for the tokenizer.

    It takes some 400 MB, and nothing here uses it.
    """
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type] # Python's mark of a module that is not there
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns that there is no torch


def configure_logs(settings: ServerSettings, level: str) -> None:
    """Write MIRL's and uvicorn's lines to stdout, in the form that the settings choose."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        json_formatter() if settings.log.format == "json" else logging.Formatter(LINE, "%m-%d %H:%M:%S")
    )
    # Others' warnings, and nothing of Pillow, which logs the values of EXIF tags at DEBUG.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("PIL").setLevel(logging.INFO)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(level)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address.

    Raises:
        UsageError: the address is taken meanwhile.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise UsageError(address_problem(error, host, port)) from error
    return listening


def _config(gateway: Gateway, flags: GatewayFlags, settings: ServerSettings) -> uvicorn.Config:
    config = uvicorn.Config(
        gateway.app,
        uds=flags["uds"],
        http=http_protocol(settings.http),
        ssl_keyfile=flags["ssl-keyfile"],
        ssl_certfile=flags["ssl-certfile"],
        ssl_ca_certs=flags["ssl-ca-certs"],
        ssl_cert_reqs=flags["ssl-cert-reqs"],
        **({"ssl_ciphers": flags["ssl-ciphers"]} if flags["ssl-ciphers"] else {}),
        h11_max_incomplete_event_size=flags["h11-max-incomplete-event-size"],
        access_log=False,
        log_config=None,
        lifespan="on",
        server_header=False,
    )
    # Read by MIRL's protocol; uvicorn has no setting of this name.
    config.h11_max_header_count = flags["h11-max-header-count"]  # type: ignore[attr-defined]
    return config


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


__all__ = ["check_gateway", "configure_logs", "dry_run", "serve"]
