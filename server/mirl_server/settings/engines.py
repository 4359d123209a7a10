"""The operator's settings of a gateway: the vLLM servers in place of an engine in process."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from mirl_core.config import Settings, listed

URLs = Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)]
EngineMode = Literal["tokens", "chat"]


class EngineSettings(Settings):
    """The vLLM servers of a gateway. The docstring under each field is its documentation."""

    urls: URLs = ()
    """Base URLs of vLLM servers of one model. With any, `mirl-serve` is a gateway and runs no engine of its
    own. Environment: `MIRL_ENGINE__URLS=http://a:8000,http://b:8000`."""
    mode: EngineMode = "tokens"
    """How the gate uses the servers: `tokens` needs servers with `--enable-scale-out`, `chat` takes any vLLM
    server and is not token-exact."""
    api_key: SecretStr | None = None
    """The gateway's own key at the servers. Clients' keys never reach them."""
    model: str | None = None
    """The model, as the servers list it; None: the first in their lists."""
    tokenizer: str | None = None
    """Folder or hub name of the model, for its tokenizer, its config and its `mirl.json`; None: the name
    under which the servers loaded it."""
    priorities: bool = False
    """Whether all servers were started with `--scheduling-policy priority`. A gateway can't see it, and other
    servers drop the `priority` of a request in silence, so gated requests with one are refused without it."""
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0
    """Longest wait for the next part of a server's answer; seconds."""
    resolve_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """Seconds between two look-ups of the names in the URLs: each address of a name is an engine of its own.
    0: a name is one engine."""
    check_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    """Seconds between two checks of the servers. While none is ready, they are checked every second."""
