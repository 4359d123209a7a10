"""The vLLM endpoint plugin: MIRL's routes on vLLM's own server, over the engine client that it is handed.

`VLLM_PLUGINS=mirl`, which `mirl-serve` sets, enables it.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.datastructures import State
from vllm import envs
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.serve import instrumentator
from vllm.renderers import ChatParams
from vllm.renderers.chat_utils import load_chat_template
from vllm.transformers_utils.repo_utils import get_hf_file_to_dict, try_get_local_file
from vllm.v1.engine.exceptions import EngineDeadError as VLLMEngineDeadError

from mirl_core.config import ModelSettings
from mirl_core.engines.vllm.engine import VLLMEngine
from mirl_core.engines.vllm.structure import BACKEND
from mirl_core.families import of_family
from mirl_core.pipeline.run import Pipeline
from mirl_server.assembly.app import assemble, tracing_to
from mirl_server.assembly.stopping import stopping, until_listening
from mirl_server.handling.admission import SEQUENCES, Admission
from mirl_server.handling.lifetime import Lifetime, patience
from mirl_server.handling.reading.request import MAX_TOP_LOGPROBS
from mirl_server.handling.service import Service
from mirl_server.media.decoding import read_references
from mirl_server.media.images import Images
from mirl_server.middleware.stack import watch_load
from mirl_server.observability import quiet_start
from mirl_server.observability.logs import share_handlers
from mirl_server.observability.metrics import EngineState, process_metrics
from mirl_server.observability.serving_summary import Serving, base_url
from mirl_server.settings.server import ServerSettings, default_options, load_calibration
from mirl_server.vllm.endpoints import (
    GENERATING,
    SCALING,
    delegate,
    delegate_count,
    delegate_messages,
    delegate_responses,
    engine_dead,
    too_deep,
)
from mirl_server.vllm.media import check_images
from mirl_server.vllm.multi_process import ENGINE_SECONDS, watch_engine
from mirl_server.vllm.names import resolve_default_chat_template_kwargs
from mirl_server.vllm.parent_death import LAUNCHER
from mirl_server.vllm.tool_parsers import find_tool_parser, marker_tokens
from mirl_server.vllm.trajectories import split_answers

logger = logging.getLogger(__name__)

FIRST_SERVERS = ("MainProcess", "ApiServer_0")
"""Names of the process that prints the summary, with one API server and with several."""
SWAGGER = Path(instrumentator.__file__).parent / "static"
"""Swagger UI's files, which vLLM ships for `--enable-offline-docs`."""


class MIRLPlugin:
    """MIRL as an endpoint plugin of a vLLM server."""

    name = "mirl"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add MIRL's routes, which replace vLLM's of the same path and method, and the middleware.

        Images that vLLM's own handlers decode are checked against the same limits.
        """
        args: Namespace = app.state.args
        settings = _settings(args)
        self._life = _life(args)
        self._serves: Serving | None = None
        check_images(app, settings.limits)
        name = _names(args)[0]
        self._assembly = assemble(
            app,
            settings,
            self._life,
            lambda: name,
            keys=_take_keys(args),
            generating=GENERATING,
            swagger=SWAGGER,
        )
        app.include_router(APIRouter(lifespan=self._serving))
        app.add_exception_handler(RecursionError, too_deep)
        app.add_exception_handler(VLLMEngineDeadError, engine_dead)
        if not getattr(args, "enable_elastic_ep", False):
            # Scaling is the operator's task, and any client with a key could call these.
            app.router.routes[:] = [
                route for route in app.routes if getattr(route, "path", "") not in SCALING
            ]

    @asynccontextmanager
    async def _serving(self, app: FastAPI) -> AsyncIterator[None]:
        """Take over the signals and the shutdown, after vLLM has set its own handlers."""
        server, client = app.state.server, app.state.engine_client
        try:
            async with stopping(self._life, server):
                announcing = asyncio.create_task(self._announce(server, app.state.args))
                try:
                    yield
                finally:
                    announcing.cancel()
                    await asyncio.gather(announcing, return_exceptions=True)
        finally:
            if client is not None:
                # vLLM would wait for a hanging engine as long as for requests. It blocks the loop on purpose:
                # otherwise vLLM's output handler would take the shutdown for the engine's death.
                client.shutdown(timeout=ENGINE_SECONDS)

    async def _announce(self, server: Any, args: Namespace) -> None:
        """Print the summary once the server listens; with several API servers the first one does.

        Ends the server where another process has taken its port while the engine loaded.
        """
        await until_listening(server)
        quiet_start.end()
        sockets = [sock for listener in server.servers for sock in listener.sockets]
        if None in sockets:
            # Its listen(2) failed: uvloop closes the socket and keeps the error to itself.
            self._life.port_taken = True
            logger.log(
                logging.DEBUG if LAUNCHER in os.environ else logging.ERROR, "port %d is taken", args.port
            )
            server.should_exit = True
            return
        if self._serves is not None and sockets and multiprocessing.current_process().name in FIRST_SERVERS:
            host, port = ("", 0) if args.uds else sockets[0].getsockname()[:2]
            print(self._serves.summary(args.uds or base_url(host, port, bool(args.ssl_certfile))), flush=True)

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Build the service that the routes use, once the engine runs."""
        settings, life = _settings(args), self._life
        share_handlers(settings.log, logging.INFO if quiet_start.is_quiet() else None)
        if args.sse_keep_alive_interval:
            settings = settings.model_copy(update={"keep_alive": float(args.sse_keep_alive_interval)})
        names = _names(args)
        model = ModelSettings()
        pipeline = tool_parser = None
        if engine_client is not None:
            tool_parser = find_tool_parser(args, engine_client.renderer.get_tokenizer())
            model = await asyncio.to_thread(
                find_model_settings,
                engine_client.model_config,
                settings.calibration,
                _template(engine_client.renderer.get_tokenizer(), args),
            )
            references = await asyncio.to_thread(read_references, model.reference_images)
            pipeline = Pipeline(_engine(engine_client, model, args), model, references, life.closing)
            if not model.lenient:  # others write tags only where an instruction has them
                split_answers(state, model.tags, engine_client.renderer.get_tokenizer())
            watch_engine(engine_client, args)
            life.engine_dead = lambda: bool(engine_client.errored)
            life.outlives_engine = envs.VLLM_KEEP_ALIVE_ON_ENGINE_DEATH
        metrics = process_metrics()

        def dead() -> bool:
            return engine_client is None or bool(engine_client.errored)

        def engine_state() -> EngineState:
            return "dead" if dead() else "draining" if life.draining else "ready"

        metrics.watch_engine(engine_state)
        admission = Admission(settings.admission, _sequences(engine_client, args))
        life.drained = admission.drain
        watch_load(metrics, admission, state.mirl_access.quotas)
        state.mirl = Service(
            pipeline=pipeline,
            options=default_options(model, settings),
            settings=settings,
            names=names,
            cards=lambda: _cards(state),
            delegate=delegate,
            handlers={
                "responses": delegate_responses,
                "messages": delegate_messages,
                "count_tokens": delegate_count,
            },
            metrics=metrics,
            admission=admission,
            images=Images.of(settings.limits, settings.images, metrics.time_images, metrics.fetched),
            tracing=tracing_to(args.otlp_traces_endpoint),
            tool_parser=tool_parser,
            max_top_logprobs=_max_top_logprobs(engine_client),
            checks_plain_forms=engine_client is not None
            and engine_client.vllm_config.structured_outputs_config.backend == BACKEND,
            priorities=args.scheduling_policy == "priority",
            force_usage=args.enable_force_include_usage,
            draining=lambda: life.draining,
        )
        # vLLM's SageMaker support builds the middleware stack early; no request is served yet.
        self._assembly.app.middleware_stack = None
        self._assembly.log_requests(args.disable_access_log_for_endpoints)
        self._assembly.warn_if_open(args.host, args.uds)
        if settings.log.format == "text":
            self._serves = self._assembly.serving(names[0], model, state.mirl.options, quiet_start.is_quiet())
        else:
            logger.info("MIRL gates %s; the same model without the gate is %s:direct", names[0], names[0])


def _settings(args: Namespace) -> ServerSettings:
    settings: ServerSettings = getattr(args, "mirl", None) or ServerSettings.load()
    return settings


def _names(args: Namespace) -> tuple[str, ...]:
    """Return the names under which the model is served."""
    return tuple(args.served_model_name or [args.model])


def _life(args: Namespace) -> Lifetime:
    """Create the lifetime of this process and store it in `args`: the launcher's exit code depends on it."""
    args.mirl_life = life = Lifetime(patience(_settings(args), args.shutdown_timeout))
    return life


def _take_keys(args: Namespace) -> list[str]:
    """Remove vLLM's own API keys from `args` and return them for MIRL's authentication.

    vLLM adds its check after the plugins and would refuse MIRL's keys; with only an empty key it adds no
    check.
    """
    keys = [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]
    args.api_key = [""]
    return keys


def _sequences(client: EngineClient | None, args: Namespace) -> int:
    """Return this API server's share of twice the sequences that the engine runs at a time."""
    if client is None:
        return SEQUENCES
    ranks = client.vllm_config.parallel_config.data_parallel_size
    most = int(client.vllm_config.scheduler_config.max_num_seqs * ranks)
    servers = int(getattr(args, "api_server_count", None) or 1)
    return max(2, 2 * most // max(1, servers))


def find_model_settings(model_config: Any, calibration: Path | None, template: str | None) -> ModelSettings:
    """Return the model's settings: the operator's `mirl.json`, the one beside the weights, the family's, or
    the paper's.

    Args:
        template: the chat template.

    Raises:
        ConfigError: the file is wrong, or the operator's does not exist.
    """
    if calibration is not None:
        return load_calibration(calibration)
    where = (model_config.model, model_config.revision)
    get_hf_file_to_dict("mirl.json", *where)  # downloads it into the local cache, if the hub's model has it
    path = try_get_local_file(where[0], "mirl.json", where[1])
    settings = ModelSettings.load(path.parent) if isinstance(path, Path) else None
    if settings is not None:
        return settings
    shipped = of_family(getattr(model_config.hf_config, "model_type", None), template)
    logger.warning("%s %s", where[0], shipped.notice)
    return shipped.settings


def _template(tokenizer: Any, args: Namespace) -> str | None:
    """Return the chat template that requests are rendered with; None: one that isn't Jinja, or not known."""
    template = load_chat_template(args.chat_template) or getattr(tokenizer, "chat_template", None)
    return template if isinstance(template, str) else None


def _engine(client: EngineClient, model: ModelSettings, args: Namespace) -> VLLMEngine:
    tokenizer = client.renderer.get_tokenizer()
    special = set(tokenizer.all_special_tokens)
    tags = (*model.tags.description, *model.tags.reasoning, *model.tags.answer)
    return VLLMEngine(
        client,
        keep_special=[*(tag for tag in tags if tag in special), *marker_tokens(args, tokenizer)],
        chat=ChatParams(
            chat_template=load_chat_template(args.chat_template),
            chat_template_content_format=args.chat_template_content_format,
            chat_template_kwargs=resolve_default_chat_template_kwargs(args),
        ),
    )


def _max_top_logprobs(client: EngineClient | None) -> int:
    most = client.model_config.max_logprobs if client is not None else MAX_TOP_LOGPROBS
    # Negative: the whole vocabulary.
    return MAX_TOP_LOGPROBS if most < 0 else min(most, MAX_TOP_LOGPROBS)


async def _cards(state: State) -> list[dict[str, Any]]:
    listed = await state.openai_serving_models.show_available_models()
    cards: list[dict[str, Any]] = listed.model_dump()["data"]
    return cards
