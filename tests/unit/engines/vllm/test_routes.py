"""The routes and fields of vLLM's server that MIRL uses, held against vLLM's source as in test_names."""

from __future__ import annotations

import pytest

from tests.unit.engines.vllm.vllm_source import members, source

TOKENS = "vllm.entrypoints.scale_out.token_in_token_out.protocol"
CHAT = "vllm.entrypoints.openai.chat_completion.protocol"

FIELDS = [
    (
        CHAT,
        "ChatCompletionRequest",
        (
            "model messages max_tokens mm_payload tools tool_choice chat_template_kwargs "
            "add_generation_prompt continue_final_message"
        ),
    ),
    (
        TOKENS,
        "GenerateRequest",
        "request_id model token_ids content_parts sampling_params return_token_ids cache_salt priority",
    ),
    (TOKENS, "GenerateRequest", "features"),
    (TOKENS, "MultiModalFeatures", "mm_placeholders"),
    (TOKENS, "PlaceholderRangeInfo", "offset length"),
    (TOKENS, "GenerateChoiceBase", "finish_reason token_ids weight_versions"),
    (TOKENS, "GenerateTokensChoice", "logprobs"),
    (TOKENS, "GenerateLogProbs", "content"),
    (TOKENS, "GenerateLogProbsContent", "top_logprobs"),
    (TOKENS, "GenerateLogProb", "token_id logprob"),
    (TOKENS, "GenerateResponseBase", "usage prompt_logprobs prompt_token_ids"),
    ("vllm.outputs", "WeightVersionSpan", "version"),
    ("vllm.sampling_params", "SamplingParams", "ignore_eos prompt_logprobs skip_reading_prefix_cache"),
    (
        "vllm.entrypoints.serve.tokenize.protocol",
        "TokenizeCompletionRequest",
        "model prompt add_special_tokens",
    ),
    ("vllm.entrypoints.serve.tokenize.protocol", "TokenizeResponse", "tokens"),
    ("vllm.entrypoints.serve.engine.protocol", "ModelCard", "id root max_model_len"),
    ("vllm.entrypoints.rl.online.api_router", "pause_generation", "mode clear_cache"),
    ("vllm.entrypoints.rl.online.api_router", "update_weight_version", "new_version"),
    ("vllm.entrypoints.serve.dev.cache.api_router", "reset_prefix_cache", "reset_running_requests"),
]

ROUTES = [
    ("scale_out/render/api_router.py", '"/v1/chat/completions/render"'),
    ("scale_out/token_in_token_out/api_router.py", '"/inference/v1/generate"'),
    ("scale_out/token_in_token_out/api_router.py", '"/inference/v1/abort_requests"'),
    # The prefix of request ids that an abort has to name.
    ("scale_out/token_in_token_out/serving.py", 'f"generate-tokens-{'),
    ("serve/tokenize/api_router.py", '"/tokenize"'),
    ("serve/instrumentator/health.py", '"/health"'),
    ("rl/online/api_router.py", '"/pause"'),
    ("rl/online/api_router.py", '"/resume"'),
    ("rl/online/api_router.py", '"/is_paused"'),
    ("rl/online/api_router.py", '"/weight_info"'),
    ("rl/online/api_router.py", '"/update_weight_version"'),
    ("serve/dev/rpc/api_router.py", '"/collective_rpc"'),
    ("serve/dev/cache/api_router.py", '"/reset_prefix_cache"'),
    ("serve/dev/cache/api_router.py", '"/reset_encoder_cache"'),
]


@pytest.mark.parametrize(("module_name", "path", "wanted"), FIELDS, ids=[path for _, path, _ in FIELDS])
def test_fields_exist(module_name: str, path: str, wanted: str) -> None:
    assert set(wanted.split()) <= members(module_name, path)


@pytest.mark.parametrize(("where", "text"), ROUTES)
def test_routes_exist(where: str, text: str) -> None:
    assert text in (source() / "entrypoints" / where).read_text(encoding="utf-8")
