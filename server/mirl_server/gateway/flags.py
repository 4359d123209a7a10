"""The flags of vLLM's server that a gateway takes too; all others are its engines' own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mirl_server.cli.early_checks import HOST, PORT
from mirl_server.cli.flags.server import UsageError
from mirl_server.cli.flags.vllm import VLLMFlags

DEFAULTS: Mapping[str, Any] = {
    "host": HOST,
    "port": PORT,
    "uds": None,
    "ssl-keyfile": None,
    "ssl-certfile": None,
    "ssl-ca-certs": None,
    "ssl-cert-reqs": 0,
    "ssl-ciphers": None,
    "allowed-origins": [],
    "allow-credentials": False,
    "allowed-methods": ["*"],
    "allowed-headers": ["*"],
    "root-path": None,
    "api-key": [],
    "disable-fastapi-docs": False,
    "disable-access-log-for-endpoints": "/health,/ready,/metrics",
    "enable-force-include-usage": False,
    "h11-max-incomplete-event-size": 65536,
    "h11-max-header-count": 128,
    "log-level": "INFO",
    "otlp-traces-endpoint": None,
    "shutdown-timeout": 20,
    "sse-keep-alive-interval": 0,
    "config": None,
}
"""Names without the leading dashes, with the gateway's defaults, which are those of `mirl-serve`."""


@dataclass(frozen=True, slots=True)
class GatewayFlags:
    """The flags of a gateway, by their long names without the leading dashes."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """Those that are on the command line or in the file of `--config`."""

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name, DEFAULTS[name])

    @property
    def changed(self) -> dict[str, Any]:
        """The flags whose values differ from the defaults, as a file of `--config` has them."""
        return {
            name: value
            for name, value in sorted(self.values.items())
            if value != DEFAULTS[name] and name != "config"
        }


def gateway_flags(flags: VLLMFlags) -> GatewayFlags:
    """Return vLLM's flags on a command line as those of a gateway.

    Raises:
        UsageError: one of them is an engine's.
    """
    engines = [f"--{name}" for name in flags.values if name not in DEFAULTS and name != "model_tag"]
    if flags.values.get("model_tag") is not None or "--model" in engines:
        raise UsageError(
            f"{flags.model}: the engines choose the model of a gateway; name one of several with "
            "--engine-model"
        )
    wrong = [*engines, *flags.unknown]
    if wrong:
        raise UsageError(f"{wrong[0]} is an engine's flag: give it to the server at --engine-url, not here")
    return GatewayFlags(flags.values)
