"""What is passed on is an allow list: every other endpoint of the vLLM that is installed is a 404."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from mirl_server.gateway.routes import GENERATING, PASSED
from tests.unit.server.gateway.gateway_cases import FakeVLLM, gateway_before

OWN = {
    ("POST", "/v1/chat/completions"), ("POST", "/v1/responses"), ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"), ("GET", "/v1/models"), ("GET", "/health"), ("GET", "/metrics"),
    ("GET", "/ready"), ("GET", "/docs"),
}  # fmt: skip
"""Routes of MIRL's own, in place of vLLM's."""
FORBIDDEN = {
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/wake_up", "/scale_elastic_ep", "/pause",
    "/resume", "/collective_rpc", "/server_info", "/reset_prefix_cache", "/reset_mm_cache", "/update_weights",
    "/init_weight_transfer_engine", "/inference/v1/generate", "/inference/v1/abort_requests",
    "/v1/chat/completions/render", "/v1/completions/render", "/v1/messages/render", "/v1/responses/render",
    "/v1/chat/completions/derender", "/start_profile", "/abort_requests", "/invocations",
}  # fmt: skip
METHODS = ("get", "post", "put", "delete", "patch", "websocket")


def vllms_routes() -> set[tuple[str, str]]:
    """Return method and path of every route in the source of vLLM's servers: an import takes long."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "entrypoints"
    return {route for file in folder.rglob("*.py") for route in _routes(ast.parse(file.read_text()))}


def _routes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        path = node.args[0]
        if not (isinstance(path, ast.Constant) and isinstance(path.value, str) and path.value[:1] == "/"):
            continue
        if node.func.attr == "add_api_route":
            named = [word.value for word in node.keywords if word.arg == "methods"]
            yield from ((method, path.value) for method in ast.literal_eval(named[0]))
        elif node.func.attr in METHODS:
            yield ("GET" if node.func.attr == "websocket" else node.func.attr.upper(), path.value)


async def test_every_other_endpoint_of_vllm_is_a_404() -> None:
    routes = vllms_routes()
    assert len(routes) > 70
    paths = {path for _, path in routes}
    assert paths >= FORBIDDEN
    passed = {(method, path) for path, methods in PASSED.items() for method in methods}
    # Whatever is passed on exists.
    assert passed <= routes
    async with gateway_before(FakeVLLM()) as behind, behind.client() as client:
        for method, path in sorted(routes | {("POST", path) for path in FORBIDDEN}):
            if (method, path) in passed | OWN:
                continue
            filled = path.replace("{response_id}", "resp_x").replace("{", "").replace("}", "")
            answer = await client.request(method, filled, json={} if method == "POST" else None)
            assert answer.status_code in (404, 405), (method, path, answer.status_code)
            if (path not in PASSED) and path not in {own for _, own in OWN}:
                assert answer.status_code == 404, (method, path)
            fields = {"message", "type"} | (set() if path.startswith("/v1/messages") else {"param", "code"})
            assert fields <= answer.json()["error"].keys(), path
        assert not behind.servers[0].received


def test_what_needs_the_models_time_waits_for_its_turn() -> None:
    assert set(PASSED) - set(GENERATING) == {
        "/tokenize", "/detokenize", "/v1/responses/{response_id}", "/v1/responses/{response_id}/cancel",
    }  # fmt: skip
