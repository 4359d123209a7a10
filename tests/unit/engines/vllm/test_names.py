"""Every name of vLLM's that MIRL uses, held against vLLM's source without importing it.

By default against the installed version. To try another one, unpack its wheel and name the folder that holds
the package `vllm`:

    MIRL_VLLM_SOURCE=/where/it/is python -m pytest tests/unit/engines/vllm/test_names.py
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.unit.engines.vllm.vllm_source import members, module, names, source

ROOT = Path(__file__).parents[4]

# (module, class or function, parameters or members that MIRL relies on)
USED: list[tuple[str, str, str]] = [
    ("vllm.engine.arg_utils", "AsyncEngineArgs", ""),
    (
        "vllm.engine.arg_utils",
        "EngineArgs",
        (
            "model enable_chunked_prefill enable_prefix_caching block_size kv_cache_memory_bytes "
            "enforce_eager max_num_seqs distributed_executor_backend tensor_parallel_size "
            "pipeline_parallel_size data_parallel_size dtype worker_extension_cls"
        ),
    ),
    ("vllm.engine.protocol", "EngineClient", "vllm_config model_config renderer errored"),
    (
        "vllm.engine.protocol",
        "EngineClient.generate",
        "prompt sampling_params request_id lora_request trace_headers priority",
    ),
    ("vllm.engine.protocol", "EngineClient.abort", "request_id"),
    ("vllm.engine.protocol", "EngineClient.check_health", ""),
    ("vllm.v1.engine.async_llm", "AsyncLLM.from_engine_args", "engine_args"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.get_supported_tasks", ""),
    ("vllm.v1.engine.async_llm", "AsyncLLM.abort", "request_id"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.shutdown", "timeout"),
    ("vllm.outputs", "RequestOutput.__init__", "outputs prompt_logprobs num_cached_tokens"),
    ("vllm.outputs", "CompletionOutput", "text token_ids logprobs finish_reason"),
    ("vllm.logprobs", "Logprob", "logprob"),
    ("vllm.logprobs", "FlatLogprobs", "__getitem__ __len__ start_indices end_indices token_ids logprobs"),
    (
        "vllm.renderers.base",
        "BaseRenderer",
        "config get_tokenizer default_chat_tok_params mm_processor_cache render_chat_async",
    ),
    (
        "vllm.renderers.base",
        "BaseRenderer.render_chat_async",
        "conversations chat_params tok_params prompt_extras skip_mm_cache",
    ),
    (
        "vllm.renderers.params",
        "ChatParams",
        "chat_template chat_template_content_format chat_template_kwargs media_io_kwargs mm_processor_kwargs",
    ),
    ("vllm.renderers.params", "TokenizeParams", "with_kwargs add_special_tokens"),
    (
        "vllm.sampling_params",
        "SamplingParams",
        (
            "max_tokens temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty "
            "stop stop_token_ids include_stop_str_in_output seed logprobs prompt_logprobs flat_logprobs "
            "logit_bias detokenize skip_special_tokens spaces_between_special_tokens output_kind "
            "skip_reading_prefix_cache structured_outputs"
        ),
    ),
    ("vllm.sampling_params", "StructuredOutputsParams", "structural_tag"),
    ("vllm.config.structured_outputs", "StructuredOutputsConfig", "backend"),
    ("vllm.v1.structured_output.backend_xgrammar", "validate_xgrammar_grammar", "sampling_params"),
    ("vllm.v1.structured_output.backend_xgrammar", "has_xgrammar_unsupported_json_features", "schema"),
    ("vllm.sampling_params", "RequestOutputKind", "FINAL_ONLY"),
    ("vllm.config.scheduler", "SchedulerConfig", "enable_chunked_prefill"),
    (
        "vllm.config.model",
        "ModelConfig",
        (
            "hf_config max_model_len max_logprobs logprobs_mode tokenizer_mode get_vocab_size "
            "try_get_generation_config"
        ),
    ),
    ("vllm.platforms.interface", "Platform", "is_cpu"),
    ("vllm.tool_parsers.abstract_tool_parser", "ToolParserManager.get_tool_parser", "name"),
    ("vllm.tool_parsers.abstract_tool_parser", "ToolParser.__init__", "tokenizer tools"),
    ("vllm.tool_parsers.abstract_tool_parser", "ToolParser.extract_tool_calls", "model_output request"),
    # New weights (training/rl/weight_sync/).
    ("vllm.v1.engine.async_llm", "AsyncLLM.pause_generation", "mode clear_cache"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.resume_generation", ""),
    ("vllm.v1.engine.async_llm", "AsyncLLM.collective_rpc", "method kwargs"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.reset_prefix_cache", ""),
    ("vllm.v1.engine.async_llm", "AsyncLLM.reset_encoder_cache", ""),
    ("vllm.v1.engine.async_llm", "AsyncLLM.update_weight_version", "new_version"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.init_weight_transfer_engine", "request"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.start_weight_update", ""),
    ("vllm.v1.engine.async_llm", "AsyncLLM.update_weights", "request"),
    ("vllm.v1.engine.async_llm", "AsyncLLM.finish_weight_update", "weight_version"),
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.reload_weights", "weights_path"),
    ("vllm.engine.arg_utils", "EngineArgs", "weight_transfer_config"),
    ("vllm.config.weight_transfer", "WeightTransferConfig", "backend"),
    ("vllm.config.parallel", "ParallelConfig", "world_size_across_dp"),
    ("vllm.config.model", "ModelConfig", "dtype"),
    (
        "vllm.distributed.weight_transfer.factory",
        "WeightTransferTrainerFactory.trainer_init",
        "init_info client source",
    ),
    (
        "vllm.distributed.weight_transfer.base",
        "VLLMWeightSyncClient",
        "init_weight_transfer_engine start_weight_update update_weights finish_weight_update",
    ),
    ("vllm.distributed.weight_transfer.base", "WeightTransferInitRequest", "init_info"),
    ("vllm.distributed.weight_transfer.base", "WeightTransferUpdateRequest", "update_info"),
    ("vllm.distributed.weight_transfer.base", "TrainerInitInfo", "rank"),
    ("vllm.distributed.weight_transfer.base", "TrainerWeightTransferEngine", "send_weights shutdown"),
    ("vllm.distributed.weight_transfer.base", "WeightSource", "metadata"),
    ("vllm.distributed.weight_transfer.base", "ParamMeta", "name dtype shape"),
    (
        "vllm.distributed.weight_transfer.nccl_engine",
        "NCCLTrainerInitInfo",
        "master_address master_port world_size",
    ),
    ("vllm.distributed.weight_transfer.ipc_engine", "IPCTrainerInitInfo", "packed"),
    # The same to servers (training/rl/sync_fleet.py).
    (
        "vllm.distributed.weight_transfer.nccl_common",
        "NCCLWeightTransferInitInfo",
        "master_address master_port rank_offset world_size",
    ),
    (
        "vllm.distributed.weight_transfer.nccl_engine",
        "NCCLTrainerWeightTransferEngine",
        "shutdown model_update_group",
    ),
    ("vllm.distributed.device_communicators.pynccl", "PyNcclCommunicator", "broadcast destroy"),
    ("vllm.entrypoints.rl.online.api_router", "init_weight_transfer_engine", "init_info"),
    ("vllm.entrypoints.rl.online.api_router", "shutdown_weight_transfer_engine", ""),
    ("vllm.entrypoints.rl.online.api_router", "start_weight_update", ""),
    ("vllm.entrypoints.rl.online.api_router", "update_weights", "update_info"),
    ("vllm.entrypoints.rl.online.api_router", "finish_weight_update", ""),
    ("vllm.entrypoints.serve.dev.server_info.api_router", "show_server_info", "config_format"),
    ("vllm.inputs.engine", "MultiModalInput", "mm_kwargs mm_placeholders"),
    # Logs, traces and the configuration file (mirl_server/vllm/flags.py, plugin.py).
    ("vllm.engine.arg_utils", "EngineArgs", "otlp_traces_endpoint log_level shutdown_timeout"),
    ("vllm.config.logging", "LoggingConfig", "log_level pylogging_config_file"),
    ("vllm.utils.argparse_utils", "FlexibleArgumentParser.load_config_file", "file_path"),
    ("vllm.multimodal.inputs", "PlaceholderRange", "offset length is_embed"),
    # Several API servers (mirl_server/vllm/multi_process.py).
    ("vllm.v1.utils", "APIServerProcessManager.__init__", "target_server_fn"),
    ("vllm.v1.utils", "run_api_server_worker_proc", "listen_address sock args client_config"),
    ("vllm.v1.utils", "wait_for_completion_or_failure", "api_server_manager engine_manager coordinator"),
    ("vllm.v1.engine.core_client", "MPClient.start_engine_core_monitor", ""),
    ("vllm.config.structured_outputs", "StructuredOutputsConfig", "backend"),
]

# (file or folder, text): what has no name in Python's sense. After `|`: the same in 0.33.
WORDS = [
    ("entrypoints/rl/online/api_router.py", '@router.get("/get_world_size")'),
    (
        "distributed/weight_transfer/nccl_engine.py",
        "engine.model_update_group = open_trainer_endpoint(|self.model_update_group = open_trainer_endpoint(",
    ),
    ("distributed/weight_transfer/base.py", "def __iter__(self) -> Iterator|def iter_full(self) -> Iterator"),
    ("envs.py", '"VLLM_ENABLE_V1_MULTIPROCESSING"'),
    ("envs.py", '"VLLM_CPU_OMP_THREADS_BIND"'),
    ("envs.py", '"VLLM_LOGGING_CONFIG_PATH"'),
    ("envs.py", '"VLLM_LOGGING_LEVEL"'),
    ("envs.py", '"VLLM_KEEP_ALIVE_ON_ENGINE_DEATH"'),
    # How a process ends (mirl_server/launch.py, plugin.py).
    ("entrypoints", "app.state.server = server"),
    ("plugins/__init__.py", '"vllm.general_plugins"'),
    ("v1/engine/utils.py", "Engine core initialization failed"),
    ("v1/utils.py", "died unexpectedly"),
    ("v1/utils.py", "died with exit code"),
    ("entrypoints/cli/serve.py", "api_server_manager = APIServerProcessManager("),
    ("entrypoints/cli/serve.py", " wait_for_completion_or_failure("),
    ("v1/engine/core_client.py", "engine_manager = self.resources.engine_manager"),
    ("v1/engine/core_client.py", "engine_manager.monitor_engine_liveness()"),
    (
        "v1/structured_output/__init__.py",
        "backend = request.sampling_params.structured_outputs._backend|if self.backend_name is not None and",
    ),
    ("envs.py", '"VLLM_LOGGING_STREAM"'),
    ("tracing/otel.py", "set_tracer_provider(trace_provider)"),
    ("renderers", '"image_pil": lambda part'),
    ("multimodal/cache/lru.py", "raise MultiModalCacheMissError"),
    # Whose cache holds the media (mirl_core/engines/vllm/media_cache.py).
    ("multimodal/cache/lru.py", "class LruKeyReplicatedSenderCache("),
    ("multimodal/cache/factories.py", "def engine_receiver_cache_from_config("),
    ("renderers/base.py", "self._mm_processor_cache = processor_cache_from_config(config)"),
    ("renderers/base.py", "self._mm_processor_only_cache = processor_only_cache_from_config(config)"),
    ("renderers/base.py", "else self._mm_processor_cache"),
    ("v1/engine/core.py", "finish_reason=FinishReason.ERROR"),
    ("config/model.py", '"raw_logprobs"'),
]


def imports() -> list[tuple[tuple[str, ...], str]]:
    """Every `from vllm… import name` in the product; alternatives of one `try` are one entry."""
    entries: set[tuple[tuple[str, ...], str]] = set()
    for folder in ("mirl_core", "server"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            tried: set[ast.AST] = set()
            for node in ast.walk(tree):
                if isinstance(node, ast.Try):
                    inside = [child for child in ast.walk(node) if _of_vllm(child)]
                    tried.update(inside)
                    for name in {alias.name for child in inside for alias in child.names}:
                        modules = {
                            child.module for child in inside if name in {alias.name for alias in child.names}
                        }
                        entries.add((tuple(sorted(module or "" for module in modules)), name))
                elif _of_vllm(node) and node not in tried:
                    entries |= {((node.module or "",), alias.name) for alias in node.names}
    return sorted(entries)


def _of_vllm(node: ast.AST) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm"


def _has(module_name: str, name: str) -> bool:
    place = source().joinpath(*module_name.split(".")[1:])
    if not place.is_dir() and not place.with_suffix(".py").is_file():
        return False
    package = place / name
    return name in names(module(module_name).body) or package.is_dir() or package.with_suffix(".py").is_file()


@pytest.mark.parametrize(("modules", "name"), imports())
def test_imports_exist(modules: tuple[str, ...], name: str) -> None:
    assert any(_has(module_name, name) for module_name in modules), f"{name} is in none of {modules}"


@pytest.mark.parametrize(("module_name", "path", "wanted"), USED, ids=[path for _, path, _ in USED])
def test_members_exist(module_name: str, path: str, wanted: str) -> None:
    assert set(wanted.split()) <= members(module_name, path)


@pytest.mark.parametrize(("where", "text"), WORDS)
def test_words_exist(where: str, text: str) -> None:
    path = source() / where
    files = path.rglob("*.py") if path.is_dir() else [path]
    sources = [file.read_text(encoding="utf-8") for file in files]
    assert any(words in content for words in text.split("|") for content in sources)
