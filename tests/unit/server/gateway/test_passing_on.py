"""Plain requests are passed on: as they are, without keys, and no longer than their client stays."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from tests.helpers.waiting import until
from tests.unit.server.gateway.gateway_cases import NAME, FakeServer, FakeVLLM, gateway_before
from tests.unit.server.harness import question

CHAT = "/v1/chat/completions"
TEXT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: TEXT,
    "/v1/completions": {"model": NAME, "prompt": "hi"},
    "/v1/chat/completions/batch": {"model": NAME, "messages": [TEXT["messages"]]},
    "/v1/responses": {"model": NAME, "input": "hi"},
    "/v1/messages": {**TEXT, "max_tokens": 5},
    "/v1/messages/count_tokens": TEXT,
    "/tokenize": {"model": NAME, "prompt": "hi"},
    "/detokenize": {"model": NAME, "tokens": [1]},
    "/v1/embeddings": {"model": NAME, "input": "hi"},
    "/v2/embed": {"model": NAME, "texts": ["hi"]},
    "/pooling": {"model": NAME, "input": "hi"},
    "/classify": {"model": NAME, "input": "hi"},
    "/score": {"model": NAME, "text_1": "a", "text_2": "b"},
    "/v1/score": {"model": NAME, "text_1": "a", "text_2": "b"},
    "/rerank": {"model": NAME, "query": "a", "documents": ["b"]},
    "/v1/rerank": {"model": NAME, "query": "a", "documents": ["b"]},
    "/v2/rerank": {"model": NAME, "query": "a", "documents": ["b"]},
}


@pytest.mark.parametrize("path", BODIES)
async def test_bodies_arrive_as_they_were_sent(path: str) -> None:
    async with gateway_before(FakeVLLM()) as behind:
        body = {**BODIES[path], "unknown_field_of_vllm": [1, "é"]}
        answer = await behind.post(path, body)
        assert answer.status_code == 200, answer.text
        (received,) = behind.servers[0].received
        assert received.path == path
        sent = {name: value for name, value in received.json.items() if name != "request_id"}
        assert sent == body
        assert received.headers["content-type"] == "application/json"


async def test_forms_arrive_as_they_were_sent() -> None:
    async with gateway_before(FakeVLLM()) as behind:
        answer = await behind.post("/v1/audio/transcriptions", files={"file": b"sound"}, data={"model": NAME})
        assert answer.status_code == 200
        (received,) = behind.servers[0].received
        assert b"sound" in received.body
        assert received.headers["content-type"].startswith("multipart/form-data; boundary=")


async def test_a_body_that_is_not_declared_as_json_is_refused() -> None:
    """An engine would read it all the same, and its images would not have been checked."""
    async with gateway_before(FakeVLLM()) as behind:
        for path in BODIES:
            answer = await behind.post(path, content=json.dumps(BODIES[path]))
            assert answer.status_code == 400, path
        assert not behind.servers[0].received


KEY = "0123456789abcdef-client"


@pytest.mark.parametrize("header", [{"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}])
async def test_keys_of_clients_stay_here(header: dict[str, str]) -> None:
    server = FakeVLLM()
    engine = {"api_key": "key-of-the-gateway"}
    async with gateway_before(server, engine=engine, access={"keys": f"team: {KEY}"}) as behind:
        others = {
            "cookie": f"k={KEY}",
            "connection": "keep-alive, x-secret",
            "x-secret": KEY,
            "te": "trailers",
        }
        for path, body in BODIES.items():
            answer = await behind.post(path, body, headers=header | others)
            assert answer.status_code == 200, (path, answer.text)
        assert len(server.received) == len(BODIES)
        for received in server.received:
            assert received.headers["authorization"] == "Bearer key-of-the-gateway"
            assert KEY not in str(received.headers) + received.body.decode()
            assert not {"te", "x-api-key", "cookie", "x-secret"} & received.headers.keys()
        assert behind.started[0]["api_key"] == "key-of-the-gateway"
        assert (await behind.post(CHAT, TEXT)).status_code == 401


async def test_without_a_key_none_is_sent() -> None:
    async with gateway_before(FakeVLLM()) as behind:
        await behind.post(CHAT, TEXT, headers={"authorization": "Bearer theirs"})
        assert "authorization" not in behind.servers[0].received[0].headers


async def test_headers_of_the_answer() -> None:
    server = FakeVLLM()

    async def busy(_: Request) -> Response:
        return JSONResponse(
            {"error": {"message": "later", "type": "rate_limit_error", "param": None, "code": 429}}, 429,
            {"retry-after": "3", "set-cookie": "a=b", "access-control-allow-origin": "*", "x-of-vllm": "1"},
        )  # fmt: skip

    server.answers[CHAT] = busy
    async with gateway_before(server) as behind:
        answer = await behind.post(CHAT, TEXT, headers={"x-request-id": "mine", "origin": "http://evil"})
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "3"
        assert answer.headers["x-of-vllm"] == "1"
        assert answer.headers["x-request-id"] == "mine"
        assert not {"set-cookie", "access-control-allow-origin"} & answer.headers.keys()
        assert server.received[0].headers["x-request-id"] == "mine"


@pytest.mark.parametrize("gates", [False, True])
@pytest.mark.parametrize("name", [NAME, f"{NAME}:direct"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_plain_model_answers_under_the_requested_name(gates: bool, name: str, stream: bool) -> None:
    server = FakeVLLM(gates=gates)

    async def answer(request: Request) -> Response:
        model = (await request.json())["model"]
        content = json.dumps({"model": model, "text": "é" * 50}, ensure_ascii=False, separators=(",", ":"))
        if not stream:
            return Response(content, media_type="application/json")

        async def cut() -> Any:
            raw = f"data: {content}\n\ndata: {content}\n\ndata: [DONE]\n\n".encode()
            for at in range(0, len(raw), 7):  # whatever the network makes of it
                yield raw[at : at + 7]
                await asyncio.sleep(0)

        return StreamingResponse(cut(), media_type="text/event-stream")

    server.answers[CHAT] = answer
    async with gateway_before(server) as behind:
        message = question() if name.endswith(":direct") else {"role": "user", "content": "hi"}
        body = {"model": name, "messages": [message], "stream": stream}
        got = await behind.post(CHAT, body)
        assert got.status_code == 200
        # An engine that gates the name by itself has the plain model beside it.
        assert server.received[0].json["model"] == (f"{NAME}:direct" if gates else NAME)
        models = (
            [json.loads(line[6:])["model"] for line in got.text.split("\n\n") if "model" in line]
            if stream
            else [got.json()["model"]]
        )
        assert models == [name] * len(models)
        assert len(models) == (2 if stream else 1)


@pytest.mark.parametrize("gates", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/messages"])
async def test_direct_is_taken_off_a_name_once(gates: bool, path: str) -> None:
    """An engine that gates takes it off too: a name without a model must not become one with a model."""
    server = FakeVLLM(gates=gates)
    async with gateway_before(server) as behind:
        await behind.post(path, {**BODIES[path], "model": f"{NAME}:direct:direct"})
    of_engine = server.received[0].json["model"]
    assert (of_engine.removesuffix(":direct") if gates else of_engine) == f"{NAME}:direct"


@pytest.mark.parametrize("priorities", [False, True])
async def test_priorities_are_for_engines_that_schedule_by_them(priorities: bool) -> None:
    async with gateway_before(FakeVLLM(), engine={"priorities": priorities}) as behind:
        answer = await behind.post(CHAT, {"model": NAME, "messages": [question()], "priority": 2})
    refused = answer.json().get("error") or {}
    assert (refused.get("param") == "priority") is not priorities


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
async def test_a_client_that_leaves_ends_the_engines_request(path: str) -> None:
    server = FakeVLLM()
    server.answers[path] = server.endless
    async with gateway_before(server) as behind:
        body = {**BODIES[path], "stream": True}
        async with behind.client() as client, client.stream("POST", path, json=body) as answer:
            lines = answer.aiter_lines()
            first = [await anext(lines) for _ in range(5)]
            assert [line for line in first if line][-1].endswith(',"n":2}')
            assert not server.left.is_set()
        async with asyncio.timeout(5):
            await server.left.wait()
            admission = behind.gateway.service.admission
            await until(lambda: admission.running("plain") == 0)


async def test_a_client_that_leaves_before_the_answer_ends_the_engines_request() -> None:
    server = FakeVLLM()
    came, gone = asyncio.Event(), asyncio.Event()

    async def never(request: Request) -> Response:
        came.set()
        while not await request.is_disconnected():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        gone.set()
        return Response()

    server.answers[CHAT] = never
    async with gateway_before(server) as behind:
        asking = asyncio.create_task(behind.post(CHAT, TEXT))
        await came.wait()
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(5):
            await gone.wait()
            admission = behind.gateway.service.admission
            await until(lambda: admission.running("plain") == 0)
    assert [request.path for request in server.received] == [CHAT]


async def test_an_engine_that_breaks_off_ends_the_stream_with_an_error() -> None:
    server = FakeVLLM()

    async def breaks(_: Request) -> Response:
        async def events() -> Any:
            yield b'data: {"model":"m"}\n\n'
            raise ConnectionResetError

        return StreamingResponse(events(), media_type="text/event-stream")

    server.answers[CHAT] = server.answers["/v1/messages"] = breaks
    async with gateway_before(server) as behind:
        answer = await behind.post(CHAT, {**TEXT, "stream": True})
        last, done, _ = answer.text.split("\n\n")[-3:]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "bad_gateway"
        assert done == "data: [DONE]"
        answer = await behind.post("/v1/messages", {**BODIES["/v1/messages"], "stream": True})
        assert answer.text.split("\n\n")[-2].startswith("event: error\ndata: ")


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, 400), (404, 404), (422, 422), (429, 429), (500, 500), (401, 502), (403, 502)],
)
async def test_errors_have_the_apis_shape(status: int, expected: int) -> None:
    server = FakeVLLM()

    async def fail(request: Request) -> Response:
        if request.url.path == "/v1/messages":
            return JSONResponse({"type": "error", "error": {"type": "x", "message": "no"}}, status)
        return JSONResponse({"detail": "no"}, status)

    server.answers = dict.fromkeys(BODIES, fail)
    async with gateway_before(server) as behind:
        for path, body in BODIES.items():
            answer = await behind.post(path, body)
            assert answer.status_code == expected, path
            error = answer.json()["error"]
            assert error["message"], path
            if path.startswith("/v1/messages"):
                assert answer.json()["type"] == "error"
            else:
                assert {"message", "type", "param", "code"} <= error.keys(), path


async def test_a_request_goes_elsewhere_only_where_nothing_was_delivered() -> None:
    vllm_a, vllm_b = FakeVLLM(), FakeVLLM()
    reached: list[str] = []

    async def unavailable(_: Request) -> Response:
        reached.append("one")
        return JSONResponse({"error": {"message": "no", "type": "x", "param": None, "code": None}}, 503)

    async def breaks(_: Request) -> Response:
        reached.append("one")
        raise ConnectionResetError

    vllm_a.answers[CHAT] = unavailable
    async with gateway_before(vllm_a, vllm_b) as behind:
        for _ in range(4):
            assert (await behind.post(CHAT, TEXT)).status_code == 200
        assert reached
        assert len(vllm_b.received) == 4
        reached.clear()
        vllm_a.answers[CHAT] = breaks
        vllm_b.received.clear()
        statuses = [(await behind.post(CHAT, TEXT)).status_code for _ in range(2)]
        # 500: the server's own answer to its error.
        assert statuses.count(500) == len(reached) == 2 - len(vllm_b.received)


async def test_an_engine_that_is_not_there_is_passed_over() -> None:
    server = FakeVLLM()
    async with gateway_before(server) as behind:
        behind.fleet.servers = (FakeServer("http://127.0.0.1:9"), *behind.fleet.servers)
        assert (await behind.post(CHAT, TEXT)).status_code == 200
        behind.fleet.servers = (FakeServer("http://127.0.0.1:9"),)
        answer = await behind.post(CHAT, TEXT)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "engine_dead"
        assert int(answer.headers["retry-after"]) > 0


async def test_bodies_over_the_limit_are_refused() -> None:
    async with gateway_before(FakeVLLM(), http={"max_body_bytes": 2000}) as behind:
        for path in BODIES:
            answer = await behind.post(path, {**BODIES[path], "x": "y" * 3000})
            assert answer.status_code == 413, path
        assert not behind.servers[0].received


async def test_requests_for_stored_responses_go_to_their_engine() -> None:
    vllm_a, vllm_b = FakeVLLM(), FakeVLLM()

    def answering(server: FakeVLLM) -> None:
        stored: set[str] = set()

        async def create(request: Request) -> Response:
            body = await request.json()
            previous = body.get("previous_response_id")
            if previous is not None and previous not in stored:
                return JSONResponse(
                    {"error": {"message": "no", "type": "x", "param": None, "code": 404}}, 404
                )
            stored.add(body["request_id"])
            return JSONResponse({"id": body["request_id"], "model": NAME})

        async def any_path(request: Request) -> Response:
            path = request.url.path.removeprefix("/v1/responses/").removesuffix("/cancel")
            return JSONResponse({"id": path}, 200 if path in stored else 404)

        server.answers["/v1/responses"] = create
        stored_responses = Route("/v1/responses/{rest:path}", any_path, methods=["GET", "POST"])
        server.app.router.routes.insert(0, stored_responses)

    answering(vllm_a)
    answering(vllm_b)
    async with gateway_before(vllm_a, vllm_b) as behind:
        ids = [(await behind.post("/v1/responses", BODIES["/v1/responses"])).json()["id"] for _ in range(6)]
        chosen = "resp_chosen-by-the-client"
        await behind.post("/v1/responses", {**BODIES["/v1/responses"], "request_id": chosen})
        for response_id in [*ids, chosen]:
            assert (await behind.get(f"/v1/responses/{response_id}")).status_code == 200
            assert (await behind.post(f"/v1/responses/{response_id}/cancel")).status_code == 200
        for response_id in ids:
            follow = {**BODIES["/v1/responses"], "previous_response_id": response_id}
            assert (await behind.post("/v1/responses", follow)).status_code == 200
        assert (await behind.get("/v1/responses/resp_unknown")).status_code == 404
        assert (await behind.get("/v1/responses/..%2f..%2fmetrics")).status_code in (400, 404)


async def test_an_engines_metrics_are_counted() -> None:
    async with gateway_before(FakeVLLM()) as behind:
        url = behind.servers[0].url
        passed = f'mirl_gateway_requests_total{{engine="{url}",status="2xx"}} '

        async def count() -> float:
            lines = (await behind.get("/metrics")).text.splitlines()
            return sum(float(line.removeprefix(passed)) for line in lines if line.startswith(passed))

        # All gateways of this process count together, and an earlier engine may have had the same port.
        before = await count()
        await behind.post(CHAT, TEXT)
        assert await count() == before + 1
        metrics = (await behind.get("/metrics")).text
        assert 'mirl_gateway_engines{state="ready"} 1.0' in metrics
        assert f'mirl_gateway_requests_in_flight{{engine="{url}"}} 0.0' in metrics
        assert f'mirl_gateway_engine_requests_total{{engine="{url}"}} 0.0' in metrics
        assert "mirl_requests_total" in metrics


@pytest.mark.parametrize("model", [["x"], {"a": 1}, 5, None])
async def test_names_that_are_not_text_are_the_engines_to_refuse(model: Any) -> None:
    async with gateway_before(FakeVLLM(gates=True)) as behind:
        for path in (CHAT, "/v1/responses", "/v1/completions"):
            assert (await behind.post(path, {**BODIES[path], "model": model})).status_code == 200, path
        # A null is left out, as in process.
        assert [received.json.get("model") for received in behind.servers[0].received] == [model] * 3
