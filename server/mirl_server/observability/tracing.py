"""OpenTelemetry traces: a span for each gated request, each of its stages, and each sequence.

    chat NAME                    the request; a child of the caller's span (W3C traceparent)
    ├── render
    ├── describe
    │   └── describe sequence    one per description; vLLM's own `llm_request` span is its child
    ├── score                    vLLM's spans of the scored sequences are its children
    └── fork (or plain)
        └── fork sequence        one per chain

Attributes are numbers, names from fixed lists and ids: never a prompt, an image, an answer or a key. The
pipeline does not know of tracing: each request runs on an engine that records its calls in spans.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from mirl_core import __version__
from mirl_core.config import MIRLOptions
from mirl_core.engines.base import Engine, Rendered, RequestContext, Sample, Sampling, TraceHeaders
from mirl_core.engines.wrappers.forwarding import ForwardingEngine
from mirl_core.pipeline.choices import ChoiceEvent
from mirl_core.pipeline.events import Decided, FellBack, Finished, Gated, Started
from mirl_core.types import Conversation, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

STAGES = ("render", "describe", "score", "fork", "plain", "seen", "unseen")
_IDS = {"chat": "chatcmpl-", "responses": "resp_", "messages": "msg_"}
_W3C = TraceContextTextMapPropagator()


class Tracing:
    """The source of request spans.

    Args:
        tracer: a tracer of any provider; `process_tracing` returns the process's own.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def request(self, operation: str, headers: Mapping[str, str]) -> RequestTrace:
        """Begin the span of a request.

        Args:
            operation: `chat`, `messages`, `score`, …: the span's name begins with it.
            headers: the HTTP request's headers, with the caller's own span.
        """
        span = self._tracer.start_span(
            operation,
            context=_W3C.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"gen_ai.operation.name": operation, "gen_ai.provider.name": "mirl"},
        )
        return RequestTrace(self._tracer, span, operation)


def process_tracing(endpoint: str | None) -> Tracing | None:
    """Return tracing to an OTLP endpoint; None without an endpoint.

    It uses vLLM's own provider if there is one (`--otlp-traces-endpoint`), so that both report to one
    endpoint in the same way. Otherwise it creates a provider for `endpoint`: over gRPC, or over HTTP where
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is `http/protobuf`.
    """
    if endpoint is None:
        return None
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider(resource=Resource.create())
        provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint)))
        trace.set_tracer_provider(provider)
    return Tracing(trace.get_tracer("mirl", __version__))


@dataclass(slots=True)
class _Stage:
    span: Span
    ended: int = 0
    """End of its last call; nanoseconds since the epoch."""
    sequences: int = 0
    """Sequences scored so far."""
    scored_tokens: int = 0
    headers: TraceHeaders = field(init=False)

    def __post_init__(self) -> None:
        self.headers = _headers(self.span)

    def scores(self, lengths: Sequence[int]) -> None:
        """Note a call that scores sequences of these lengths, tokens."""
        self.sequences += len(lengths)
        self.scored_tokens += sum(lengths)
        self.span.set_attributes(
            {"mirl.sequences": self.sequences, "mirl.usage.scored_tokens": self.scored_tokens}
        )


class RequestTrace:
    """The spans of one request. Always `close` it."""

    def __init__(self, tracer: trace.Tracer, span: Span, operation: str) -> None:
        self._tracer = tracer
        self._span = span
        self._operation = operation
        self._request_id = ""
        self._choices = 1
        self._stages: dict[tuple[str, str], _Stage] = {}

    @property
    def trace_id(self) -> str | None:
        """Return the id in hexadecimal, as in `traceparent`; None if nothing is recorded."""
        context = self._span.get_span_context()
        return trace.format_trace_id(context.trace_id) if context.is_valid else None

    def begin(
        self,
        model: str,
        options: MIRLOptions,
        sampling: Sampling | None,
        context: RequestContext,
        n: int = 1,
    ) -> None:
        """Record the request's parameters; `context` is the pipeline's, `n` the number of choices."""
        self._request_id = context.request_id
        self._choices = n
        self._span.update_name(f"{self._operation} {model}")
        _set(
            self._span,
            {
                "gen_ai.request.model": model,
                "gen_ai.response.id": f"{_IDS.get(self._operation, '')}{context.request_id}",
                "gen_ai.request.choice.count": n if n > 1 else None,
                "mirl.descriptions": options.descriptions,
                "mirl.keep": options.keep,
                "mirl.forks": options.forks,
                "mirl.gate": options.gate,
                "mirl.contrast": options.contrast or None,
                "mirl.estimator": options.estimator,
            },
        )
        if sampling is not None:
            _set(
                self._span,
                {
                    "gen_ai.request.max_tokens": sampling.max_tokens,
                    "gen_ai.request.temperature": sampling.temperature,
                    "gen_ai.request.top_p": sampling.top_p,
                    "gen_ai.request.seed": sampling.seed,
                },
            )

    def event(self, choice_event: ChoiceEvent) -> None:
        """Note an event of one of the request's choices on its span."""
        choice = choice_event.index if self._choices > 1 else None
        match choice_event.event:
            case Started(prompt_tokens):
                _set(self._span, {"gen_ai.usage.input_tokens": prompt_tokens})
            case Gated(descriptions, weight):
                kept = sum(description.kept for description in descriptions)
                self._span.add_event(
                    "gated", _known({"mirl.kept": kept, "mirl.mi_weight": weight, "mirl.choice": choice})
                )
            case FellBack():
                self._span.add_event("fell back", _known({"mirl.choice": choice}))
            case Decided(_, _, outstanding):
                self._span.add_event(
                    "decided", _known({"mirl.outstanding": outstanding, "mirl.choice": choice})
                )
            case Finished() if choice_event.results is not None:
                self._finished(choice_event.results)

    def _finished(self, results: Sequence[Result]) -> None:
        vote = results[0].vote if len(results) == 1 else None
        _set(
            self._span,
            {
                "gen_ai.usage.output_tokens": sum(result.completion_tokens for result in results),
                "gen_ai.response.finish_reasons": [result.finish_reason for result in results],
                "mirl.usage.scored_tokens": sum(result.scored_tokens for result in results),
                "mirl.chains": sum(len(result.chains) for result in results),
                "mirl.vote.share": vote.share if vote else None,
                "mirl.partial": any(result.partial for result in results),
                "mirl.fallback": any(result.fallback is not None for result in results),
            },
        )

    def failed(self, error: BaseException) -> None:
        """Record that the request failed, without the error's message, which may quote the request."""
        self._span.set_attribute("error.type", type(error).__name__)
        self._span.set_status(Status(StatusCode.ERROR))

    def close(self, outcome: str | None = None) -> None:
        """End all open spans; `outcome` is the request's end, from a fixed list."""
        _set(self._span, {"mirl.outcome": outcome})
        for stage in self._stages.values():
            stage.span.end(stage.ended or None)
        self._stages = {}
        self._span.end()

    def through(self, engine: Engine) -> Engine:
        """Return the engine for this request, which records its calls in spans."""
        return TracedEngine(engine, self)

    @contextmanager
    def stage(self, context: RequestContext, name: str | None = None) -> Iterator[_Stage]:
        """Yield the stage of a call; its span ends with the stage's last call.

        Args:
            context: the call's context.
            name: the stage; None: the one in the context's request id.
        """
        choice, own_name = self._choice_and_stage(context)
        name = name or own_name
        stage = self._stages.get((choice, name))
        if stage is None:
            span = self._tracer.start_span(name, context=trace.set_span_in_context(self._span))
            if choice:
                span.set_attribute("mirl.choice", int(choice))
            stage = self._stages[choice, name] = _Stage(span)
        try:
            yield stage
        except Exception as error:  # recorded and raised again
            stage.span.set_attribute("error.type", type(error).__name__)
            stage.span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            stage.ended = time.time_ns()

    def stage_name(self, context: RequestContext) -> str:
        """Return the stage of a call: `fork` for the pipeline's `<request id>-fork-3`."""
        return self._choice_and_stage(context)[1]

    def _choice_and_stage(self, context: RequestContext) -> tuple[str, str]:
        """Return the choice (`2` of `<request id>-choice-2-fork-3`; empty: the first) and the stage."""
        choice, parts = "", context.request_id.removeprefix(self._request_id).lstrip("-").split("-")
        if parts[0] == "choice" and len(parts) > 1:
            choice, parts = parts[1], parts[2:] or [""]
        return choice, parts[0] if parts[0] in STAGES else "render"

    def sequence(self, stage: _Stage, context: RequestContext, index: int) -> Span:
        """Begin the span of one sequence."""
        attributes: dict[str, AttributeValue] = {"mirl.sequence": index}
        # `fork-3`, or `fork-3-0` where each chain is a call.
        source = context.request_id.rpartition("-fork-")[2].partition("-")[0]
        if self.stage_name(context) == "fork" and source.isdecimal():
            attributes["mirl.description"] = int(source)
        return self._tracer.start_span(
            f"{self.stage_name(context)} sequence",
            context=trace.set_span_in_context(stage.span),
            attributes=attributes,
        )


class TracedEngine(ForwardingEngine):
    """An engine that forwards every call in a span, with the span's context. One instance per request."""

    def __init__(self, engine: Engine, request: RequestTrace) -> None:
        super().__init__(engine)
        self._request = request

    async def render(self, conversation: Conversation, context: RequestContext) -> Rendered:
        with self._request.stage(context) as stage:
            rendered = await self._engine.render(conversation, replace(context, trace_headers=stage.headers))
            if self._request.stage_name(context) == "render":
                stage.span.set_attribute("gen_ai.usage.input_tokens", rendered.prompt_tokens)
            return rendered

    async def generate(
        self,
        rendered: Rendered,
        suffix_ids: Sequence[int],
        n: int,
        sampling: Sampling,
        context: RequestContext,
    ) -> AsyncGenerator[Sample, None]:
        with self._request.stage(context) as stage:
            running = {index: self._request.sequence(stage, context, index) for index in range(n)}
            stage_context = replace(
                context,
                trace_headers=stage.headers,
                branch_traces=tuple(_headers(span) for span in running.values()),
            )
            try:
                source = self._engine.generate(rendered, suffix_ids, n, sampling, stage_context)
                async with aclosing(source):
                    async for sample in source:
                        span = running.pop(sample.index)
                        _set(
                            span,
                            {
                                "gen_ai.usage.output_tokens": len(sample.token_ids),
                                "gen_ai.response.finish_reasons": [sample.finish_reason],
                            },
                        )
                        span.end()
                        yield sample
            finally:
                for span in running.values():  # the caller closed the stream early
                    span.set_attribute("gen_ai.response.finish_reasons", ["abort"])
                    span.end()

    async def score(
        self, rendered: Rendered, suffixes: Sequence[Sequence[int]], context: RequestContext
    ) -> list[tuple[float, ...]]:
        with self._request.stage(context) as stage:
            stage.scores([len(suffix) for suffix in suffixes])
            stage_context = replace(context, trace_headers=stage.headers)
            return await self._engine.score(rendered, suffixes, stage_context)

    async def score_likeliest(
        self, rendered: Rendered, suffix_ids: Sequence[int], start: int, top: int, context: RequestContext
    ) -> list[dict[int, float]]:
        # A draft is scored while another stage runs, and its request id may name that stage.
        with self._request.stage(context, "score") as stage:
            stage.scores([max(len(suffix_ids) - start, 0)])
            stage_context = replace(context, trace_headers=stage.headers)
            return await self._engine.score_likeliest(rendered, suffix_ids, start, top, stage_context)


def _headers(span: Span) -> TraceHeaders:
    """Return a span's context as W3C headers."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span))
    return tuple(carrier.items())


def _known(attributes: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value is not None}


def _set(span: Span, attributes: Mapping[str, AttributeValue | None]) -> None:
    span.set_attributes(_known(attributes))


def _exporter(endpoint: str) -> SpanExporter:
    if os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHTTP

        return OverHTTP(endpoint=endpoint)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGRPC

    return OverGRPC(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
