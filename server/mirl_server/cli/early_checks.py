"""Checks of the command line before vLLM is imported: address, TLS files, API keys, the model, its settings.

vLLM finds the same faults after half a minute, some of them only when the engine has started, and reports
them with a traceback. What can't be decided here is left to vLLM.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Mapping
from importlib.util import find_spec
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, TypeGuard

from mirl_server.access.keys import make_keyring
from mirl_server.cli.flags.server import UsageError
from mirl_server.cli.flags.vllm import VLLMFlags
from mirl_server.cli.model_check import check_model
from mirl_server.settings.server import ServerSettings

HOST, PORT = "127.0.0.1", 8000
_ADDRESS_ERRORS = (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL)
_NO_SERVER = ("headless", "data-parallel-multi-port-external-lb")
"""Flags with which no server listens on `--port` in this process."""
_TLS_FILES = ("ssl-certfile", "ssl-keyfile", "ssl-ca-certs")


def check_early(flags: VLLMFlags, settings: ServerSettings, to_start: bool = True) -> None:
    """Check all that can be checked without vLLM.

    Args:
        to_start: also check what only a start needs: the address, and the model's hub.

    Raises:
        UsageError: a flag, the address or the model is wrong.
        ConfigError: the key file or the model's `mirl.json` is wrong.
    """
    values = flags.values
    make_keyring(settings.access)
    _check_values(values)
    check_tls(values)
    check_model(flags, settings, ask_hub=to_start)
    if to_start and not any(values.get(name) for name in _NO_SERVER):
        check_address(values.get("host", HOST), values.get("port", PORT), values.get("uds"))


def check_address(host: str, port: int, uds: str | None = None) -> None:
    """Check that the server can listen on an address; the address is free again afterwards.

    Raises:
        UsageError: it can't.
    """
    if uds:
        if Path(uds).exists():
            raise UsageError(f"--uds {uds}: this file exists; remove it, or name another")
        if not Path(uds).absolute().parent.is_dir():
            raise UsageError(f"--uds {uds}: there is no folder {Path(uds).parent}")
        return
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: a port is a number from 0 to 65535")
    with socket.socket(socket.AF_INET6 if _is_ipv6(host) else socket.AF_INET) as probe:
        # As vLLM does: without it, connections of a server that has just ended would count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(address_problem(error, host, port)) from error


def is_address_error(error: BaseException) -> TypeGuard[OSError]:
    """Return whether an error says that a server can't listen on its address."""
    return isinstance(error, OSError) and error.errno in _ADDRESS_ERRORS


def address_problem(error: OSError, host: str | None, port: int) -> str:
    """Return why a server can't listen on an address, with the remedy."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host or 'all addresses'} is taken by another process; choose one with --port"
    if error.errno == errno.EACCES:
        return f"no permission to listen on port {port}; choose one from 1024 on with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: this machine has no such address"
    if isinstance(error, socket.gaierror):
        return f"--host {host}: the name is unknown"
    return f"can't listen on {host} port {port}: {error.strerror or error}"


def _is_ipv6(host: str) -> bool:
    try:
        return bool(IPv6Address(host))
    except ValueError:
        return False


def _check_values(values: Mapping[str, Any]) -> None:
    """Check values of vLLM's flags that are refused only once the engine runs."""
    mode = values.get("logprobs-mode", "raw_logprobs")
    if mode != "raw_logprobs":
        raise UsageError(f"--logprobs-mode {mode}: mutual information needs raw_logprobs, the default")
    check_tracing(values)
    template = values.get("chat-template")
    if template and not any(sign in template for sign in "{}\n") and not Path(template).is_file():
        raise UsageError(f"--chat-template {template}: there is no such file")


def check_tracing(values: Mapping[str, Any]) -> None:
    """Raise UsageError where traces are to be exported and OpenTelemetry is not installed."""
    if values.get("otlp-traces-endpoint") and not _is_installed("opentelemetry.sdk"):
        raise UsageError("--otlp-traces-endpoint needs OpenTelemetry: pip install 'mirl[tracing]'")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def check_tls(values: Mapping[str, Any]) -> None:
    """Check that the files of TLS can be read, and that key and certificate belong together.

    Raises:
        UsageError: a file is missing, or they don't.
    """
    for name in _TLS_FILES:
        path = values.get(name)
        if path and not os.access(path, os.R_OK):
            raise UsageError(f"--{name} {path}: the file is not there, or can't be read")
    certificate, key = values.get("ssl-certfile"), values.get("ssl-keyfile")
    if key and not certificate:
        raise UsageError("--ssl-keyfile needs --ssl-certfile")
    if certificate:
        try:
            # An empty password: a key that wants one would be asked for on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, OSError) as error:
            raise UsageError(f"--ssl-certfile {certificate}: no valid pair with the key: {error}") from error
