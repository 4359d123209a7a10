"""Spans of a request on the fake engine, read from the SDK's in-memory exporter."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mirl_core.config import MIRLOptions
from mirl_core.engines.base import RequestContext
from mirl_core.engines.fake import FakeEngine, FakeText
from mirl_core.errors import EngineError
from mirl_core.types import Conversation
from mirl_server.observability.tracing import Tracing, process_tracing
from tests.unit.server.apis.api_cases import BODIES, post
from tests.unit.server.harness import DESCRIPTIONS, Build, Harness, question

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MARK = "MARKEDTEXT"


class Spans:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(self.provider.get_tracer("test"))

    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def single(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def trace(self, harness: Harness) -> None:
        harness.app.state.mirl = dataclasses.replace(harness.service, tracing=self.tracing)


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.provider.shutdown()


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


class Contexts(FakeEngine):
    """Remembers the contexts of its calls."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.contexts: list[RequestContext] = []

    def generate(self, rendered: Any, suffix_ids: Any, n: Any, sampling: Any, context: RequestContext) -> Any:
        self.contexts.append(context)
        return super().generate(rendered, suffix_ids, n, sampling, context)

    async def score(self, rendered: Any, suffixes: Any, context: RequestContext) -> Any:
        self.contexts.append(context)
        return await super().score(rendered, suffixes, context)

    async def score_likeliest(
        self, rendered: Any, suffix_ids: Any, start: Any, top: Any, context: RequestContext
    ) -> Any:
        self.contexts.append(context)
        return await super().score_likeliest(rendered, suffix_ids, start, top, context)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_span_for_the_request_each_stage_and_each_sequence(
    build: Build, spans: Spans, stream: bool
) -> None:
    engine = Contexts(DESCRIPTIONS, ["<answer>7</answer>"])
    harness = build(engine)
    spans.trace(harness)
    body = {"messages": [question()], "mirl": {"descriptions": 2, "keep": 2, "forks": 2}, "stream": stream}
    async with harness.client() as client:
        await client.post("/v1/chat/completions", json=body, headers={"traceparent": PARENT})
    root = spans.single("chat m")
    assert root.kind is SpanKind.SERVER
    assert f"{parent_of(root):016x}" == "b7ad6b7169203331"
    assert f"{root.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    stages = {name: spans.single(name) for name in ("render", "describe", "score", "fork")}
    for stage in stages.values():
        assert parent_of(stage) == root.context.span_id
        assert stage.context.trace_id == root.context.trace_id
        assert root.start_time <= stage.start_time <= stage.end_time <= root.end_time  # type: ignore[operator]
    described, chains = spans.named("describe sequence"), spans.named("fork sequence")
    assert [parent_of(span) for span in described] == [stages["describe"].context.span_id] * 2
    assert [parent_of(span) for span in chains] == [stages["fork"].context.span_id] * len(chains)
    assert {attributes(span)["mirl.description"] for span in chains} == {0, 1}
    assert {attributes(span)["mirl.sequence"] for span in chains} == {0, 1}
    assert len(chains) == 4
    sampled = sum(attributes(span)["gen_ai.usage.output_tokens"] for span in (*described, *chains) if
                  "gen_ai.usage.output_tokens" in attributes(span))  # fmt: skip
    assert attributes(root)["gen_ai.usage.output_tokens"] == sampled == engine.sampled_tokens
    assert attributes(root).items() >= {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.request.temperature": 1.0,
        "gen_ai.response.finish_reasons": ("stop",), "mirl.forks": 2, "mirl.outcome": "answered",
        "mirl.vote.share": 1.0,
    }.items()  # fmt: skip
    assert {event.name for event in root.events} >= {"gated", "decided"}


async def test_the_engine_gets_the_context_of_each_sequence(build: Build, spans: Spans) -> None:
    """So vLLM's own span of a sequence is the child of ours."""
    engine = Contexts(DESCRIPTIONS, ["<answer>7</answer>"])
    harness = build(engine)
    spans.trace(harness)
    await harness.ask(mirl={"descriptions": 2, "keep": 1, "forks": 2, "early_stop": False})
    describe, score, fork = engine.contexts

    def handed(context: RequestContext, index: int) -> str:
        headers = dict(context.of_branch(index).trace_headers)
        return headers["traceparent"].split("-")[2]

    for context, name in ((describe, "describe sequence"), (fork, "fork sequence")):
        for span in spans.named(name):
            assert handed(context, attributes(span)["mirl.sequence"]) == f"{span.context.span_id:016x}"
    assert handed(score, 0) == f"{spans.single('score').context.span_id:016x}"


async def test_nothing_of_the_request_is_in_a_span(build: Build, spans: Spans) -> None:
    engine = FakeEngine([f"a {MARK}</description>"], [f"<think>{MARK}</think><answer>{MARK}</answer>"])
    harness = build(engine)
    spans.trace(harness)
    await harness.ask(messages=[question(MARK)], user=MARK, stop=[MARK])
    await harness.ask(mirl={MARK: 1})
    harness.engine._fail_at["fork"] = EngineError(MARK)
    await harness.ask(messages=[question(MARK)])
    assert len(spans.all()) > 10
    assert MARK not in "".join(span.to_json() for span in spans.all())
    failed = [span for span in spans.all() if span.status.status_code is StatusCode.ERROR]
    assert {attributes(span)["error.type"] for span in failed} == {"RequestError", "EngineError"}


async def test_every_span_ends_where_chains_are_cancelled(build: Build, spans: Spans) -> None:
    chains = [FakeText("<answer>7</answer>")] * 2 + [FakeText("<answer>1</answer>", delay=20)]
    harness = build(FakeEngine(["a red seven</description>"], chains))
    spans.trace(harness)
    await harness.ask(mirl={"descriptions": 1, "keep": 1, "forks": 3})
    reasons = [attributes(span)["gen_ai.response.finish_reasons"] for span in spans.named("fork sequence")]
    assert sorted(reasons) == [("abort",), ("stop",), ("stop",)]


async def test_scores_are_traced(build: Build, spans: Spans) -> None:
    harness = build()
    spans.trace(harness)
    async with harness.client() as client:
        body = {"messages": [question()], "descriptions": ["a red seven"]}
        assert (await client.post("/v1/mirl/score", json=body)).status_code == 200
    root = spans.single("score m")
    assert {parent_of(spans.single(name)) for name in ("render", "seen", "unseen")} == {root.context.span_id}


async def test_scores_of_the_likeliest_tokens_belong_to_the_score_stage(spans: Spans) -> None:
    """Whatever stage their request ids name: a draft is verified while descriptions are sampled."""
    engine = Contexts(DESCRIPTIONS)
    request = spans.tracing.request("chat", {})
    request.begin("m", MIRLOptions(), None, RequestContext("r"))
    traced = request.through(engine)
    rendered = await traced.render(Conversation(({"role": "user", "content": "?"},)), RequestContext("r"))
    description = engine.encode("a red seven")
    for name in ("r-describe-2", "r-score-0"):
        scores = await traced.score_likeliest(rendered, description, 1, 20, RequestContext(name))
        assert scores == [{token: -3.0} for token in description[1:]]
    await traced.score(rendered, [description] * 2, RequestContext("r-score-0"))
    engine._fail_at["score"] = EngineError("lost")
    with pytest.raises(EngineError):
        await traced.score_likeliest(rendered, description, 0, 20, RequestContext("r-describe-2"))
    request.close("answered")
    score = spans.single("score")
    assert parent_of(score) == spans.single("chat m").context.span_id
    assert attributes(score)["mirl.sequences"] == 5
    assert attributes(score)["mirl.usage.scored_tokens"] == 2 + 2 + 6 + 3
    assert attributes(score)["error.type"] == "EngineError"
    assert spans.named("describe") == []
    headers = [dict(context.trace_headers)["traceparent"].split("-")[2] for context in engine.contexts]
    assert headers == [f"{score.context.span_id:016x}"] * 4


async def test_a_broken_traceparent_begins_a_new_trace(build: Build, spans: Spans) -> None:
    harness = build()
    spans.trace(harness)
    async with harness.client() as client:
        body = {"messages": [question()], "mirl": {"descriptions": 2, "keep": 1}}
        response = await client.post("/v1/chat/completions", json=body, headers={"traceparent": "00-zz-1-1"})
    assert response.status_code == 200
    assert spans.single("chat m").parent is None


async def test_without_tracing_the_callers_context_reaches_the_engine(build: Build) -> None:
    engine = Contexts(DESCRIPTIONS, ["<answer>7</answer>"])
    harness = build(engine)
    async with harness.client() as client:
        body = {"messages": [question()], "mirl": {"descriptions": 2, "keep": 1}}
        await client.post("/v1/chat/completions", json=body, headers={"traceparent": PARENT})
    assert dict(engine.contexts[0].of_branch(1).trace_headers) == {"traceparent": PARENT}


def test_off_unless_an_endpoint_is_set() -> None:
    assert process_tracing(None) is None
    code = (
        "import sys, mirl_server.handling.service, mirl_server.observability.request_observer\n"
        "import mirl_server.apis.router\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_with_an_endpoint_a_missing_provider_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from mirl_server.observability.tracing import process_tracing
assert process_tracing("http://127.0.0.1:9") is not None
first = trace.get_tracer_provider()
assert isinstance(first, TracerProvider)
process_tracing("http://127.0.0.1:9")
assert trace.get_tracer_provider() is first
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr


async def test_each_of_several_answers_has_its_stages(build: Build, spans: Spans) -> None:
    harness = build()
    spans.trace(harness)
    await harness.ask(n=2)
    root = spans.single("chat m")
    assert attributes(root)["gen_ai.request.choice.count"] == 2
    assert attributes(root)["gen_ai.response.finish_reasons"] == ("stop", "stop")
    assert attributes(root)["gen_ai.usage.output_tokens"] == harness.engine.sampled_tokens
    for stage in ("describe", "score", "fork"):
        stage_spans = spans.named(stage)
        assert sorted(attributes(span).get("mirl.choice", 0) for span in stage_spans) == [0, 1]
        assert [parent_of(span) for span in stage_spans] == [root.context.span_id] * 2
    assert len({parent_of(span) for span in spans.named("describe sequence")}) == 2
    choices = [(event.attributes or {})["mirl.choice"] for event in root.events if event.name == "gated"]
    assert sorted(choices) == [0, 1]


@pytest.mark.parametrize(("path", "prefix"), [("responses", "resp_"), ("messages", "msg_")])
async def test_other_apis_have_spans_of_their_name(
    build: Build, spans: Spans, path: str, prefix: str
) -> None:
    harness = build()
    spans.trace(harness)
    answer = (await post(harness, f"/v1/{path}", BODIES[f"/v1/{path}"]())).json()
    root = spans.single(f"{path} m")
    assert attributes(root)["gen_ai.response.id"] == answer["id"]
    assert answer["id"].startswith(prefix)


async def test_descriptions_alone_are_traced(build: Build, spans: Spans) -> None:
    harness = build()
    spans.trace(harness)
    body = {"model": "m", "messages": [question()], "mirl": {"descriptions": 2, "keep": 1}}
    await post(harness, "/v1/mirl/describe", body)
    assert spans.single("describe m").kind is SpanKind.SERVER
    assert len(spans.named("describe sequence")) == 2
    assert spans.named("fork") == []
    assert harness.metric("mirl_requests_in_flight") == 0
