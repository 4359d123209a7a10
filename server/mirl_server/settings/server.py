"""The operator's settings: flags of `mirl-serve`, over `MIRL_…` in the environment, over a YAML file.

`mirl-serve` passes the settings to the plugin in vLLM's parsed arguments; under vLLM's own command the plugin
reads the environment and the file that `MIRL_CONFIG` names. A nested model that is added as a field here is
read from all three sources, and appears in the reference and in `--dry-run`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from mirl_core.config import Limits, MIRLOptions, ModelSettings
from mirl_core.errors import ConfigError, RequestError
from mirl_server.media.rules import ImageFetching
from mirl_server.observability.logs import LogSettings
from mirl_server.settings.engines import EngineSettings
from mirl_server.settings.files import FileSource, cause_line, problem
from mirl_server.settings.limits import AccessSettings, AdmissionSettings, HTTPSettings


class ServerSettings(BaseSettings):
    """The operator's settings. The docstring under each field is its documentation."""

    model_config = SettingsConfigDict(
        env_prefix="MIRL_", env_nested_delimiter="__", frozen=True, use_attribute_docstrings=True
    )

    config: Path | None = None
    """A YAML file with these settings under `mirl:`; its other keys are flags of `vllm serve`."""
    limits: Limits = Limits()
    """Limits of one request. Environment: `MIRL_LIMITS__MAX_KEEP=8`."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Defaults of a request's options, over the model's own. Environment: `MIRL_DEFAULTS__KEEP=4`."""
    calibration: Path | None = None
    """A `mirl.json`, or the folder that holds one, in place of the one beside the model's weights."""
    reasoning_content: bool = True
    """Send the reasoning as `reasoning_content` too, for older clients."""
    playground: bool = True
    """Serve the playground at `/`, whose files need no API key. Off: `/` is a short start page."""
    images: ImageFetching = ImageFetching()
    """Images by http(s) URL. Environment: `MIRL_IMAGES__ALLOW_HOSTS=example.com,*.example.org`."""
    keep_alive: Annotated[float, Field(gt=0)] = 10.0
    """Seconds without a chunk after which a stream sends a comment, so that proxies keep it open."""
    shutdown_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Seconds that running requests may continue after a stop signal; then gated ones end with the best vote
    so far, others with a 503. None: vLLM's `--shutdown-timeout`, 20 in `mirl-serve`."""
    access: AccessSettings = AccessSettings()
    """API keys and their limits. Environment: `MIRL_ACCESS__KEY_FILE=/run/secrets/keys`."""
    http: HTTPSettings = HTTPSettings()
    """Limits of a connection. Environment: `MIRL_HTTP__MAX_BODY_BYTES=1000000`."""
    admission: AdmissionSettings = AdmissionSettings()
    """Limits of the work that runs and waits. Environment: `MIRL_ADMISSION__MAX_QUEUE=64`."""
    engine: EngineSettings = EngineSettings()
    """The vLLM servers behind a gateway (docs/gateway.md); without any, vLLM runs in this process."""

    log: LogSettings = LogSettings()
    """The log's content and format."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order: flags, environment, file. The first with a value wins, key by key."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, FileSource(settings_cls)

    @classmethod
    def load(cls, **flags: Any) -> ServerSettings:
        """Load settings from the file, the environment over it, `flags` over both.

        Raises:
            ConfigError: a value is wrong, a key is unknown, or the file can't be read.
        """
        try:
            settings = cls(**flags)
            MIRLOptions.parse(settings.defaults)
        except SettingsError as error:
            raise ConfigError(cause_line(error)) from error
        except ValidationError as error:
            message, field = problem(error, cls)
            raise ConfigError(f"{field}: {message}", param=field) from error
        except RequestError as error:
            raise ConfigError(f"defaults: {error.message}", param="defaults") from error
        return settings


def load_calibration(path: Path) -> ModelSettings:
    """Return the model's settings that the operator puts in place of those beside the weights.

    Args:
        path: a `mirl.json`, or its folder.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    settings = ModelSettings.load(path if path.is_dir() else path.parent)
    if settings is None or not (path.is_dir() or path.name == "mirl.json"):
        raise ConfigError(f"calibration {path}: no mirl.json there", param="calibration")
    return settings


def default_options(model: ModelSettings, settings: ServerSettings) -> MIRLOptions:
    """Return the options of a request that sets none: the operator's over the model's, within the limits.

    A default above its limit is lowered, not refused: a request without options must work. The limit on
    tokens always applies, so `max_total_tokens` is never unlimited.

    Raises:
        ConfigError: a default that the operator sets is above the operator's limit.
    """
    limits = settings.limits
    try:
        limits.check(MIRLOptions.parse(settings.defaults))
    except RequestError as error:
        # The paper's N, k and m are not the operator's choice: they are lowered silently.
        if (error.param or "").removeprefix("mirl.") in settings.defaults:
            raise ConfigError(f"defaults: {error.message}", param="defaults") from error
    options = MIRLOptions.parse(settings.defaults, model.options)
    tokens = limits.max_total_tokens
    return options.model_copy(
        update={
            "contrast": options.contrast[: limits.max_descriptions],
            "prior_votes": options.prior_votes[: limits.max_descriptions],
            "descriptions": min(
                options.descriptions, max(limits.max_descriptions - len(options.contrast), 0)
            ),
            "keep": min(options.keep, limits.max_keep),
            "forks": min(options.forks, limits.max_forks),
            "max_total_tokens": min(options.max_total_tokens or tokens, tokens),
        }
    )


def request_options(mirl: object, defaults: MIRLOptions, limits: Limits) -> MIRLOptions:
    """Return a request's options: its `mirl` object over the defaults, checked against the limits.

    Raises:
        RequestError: a key is unknown, or a value is out of range or above the operator's limit.
    """
    options = MIRLOptions.parse(mirl, defaults)
    limits.check(options)
    if options.max_total_tokens is None:
        options = options.model_copy(update={"max_total_tokens": limits.max_total_tokens})
    return options
