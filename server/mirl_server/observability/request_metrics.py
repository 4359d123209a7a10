"""The metrics of one gated request, counted by its events."""

from __future__ import annotations

import time

from mirl_core.config import MIRLOptions
from mirl_core.errors import BusyError, DeadlineError, MIRLError, RequestError
from mirl_core.pipeline.choices import ChoiceEvent
from mirl_core.pipeline.events import (
    Branched,
    ChainDone,
    Decided,
    Described,
    Event,
    FellBack,
    Finished,
    Gated,
    Started,
)
from mirl_core.types import Chain, Description, Result
from mirl_server.observability.metrics import Cancelled, Metrics, Outcome


class RequestMetrics:
    """One gated request, from arrival to its outcome. A request without another outcome is cancelled."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._options = MIRLOptions()
        self._choices: dict[int, _ChoiceMetrics] = {}
        self._started = time.perf_counter()
        self._closed = False
        self.outcome: Outcome = "cancelled"
        metrics.running.inc()
        metrics.refresh()

    def planned(self, options: MIRLOptions) -> None:
        """Set the options, which determine each choice's fan-out, before the first event."""
        self._options = options

    def event(self, choice_event: ChoiceEvent) -> None:
        """Count an event of one of the request's choices."""
        index, event = choice_event.index, choice_event.event
        if index not in self._choices:
            self._choices[index] = _ChoiceMetrics(self._metrics, self._options, self._started)
            if isinstance(event, Started) and len(self._choices) == 1:
                self._metrics.tokens.labels("render", "prompt").inc(event.prompt_tokens)
        self._choices[index].event(event)
        if choice_event.results is not None:
            results = choice_event.results
            self.outcome = (
                "partial" if any(result.partial for result in results)
                else "fallback" if any(result.fallback for result in results)
                else "answered"
            )  # fmt: skip
            self._metrics.seconds.observe(time.perf_counter() - self._started)
        self._metrics.refresh()

    def failed(self, error: MIRLError) -> None:
        """Set the outcome of a failed request."""
        self.outcome = (
            "deadline" if isinstance(error, DeadlineError)
            else "refused" if isinstance(error, RequestError | BusyError)
            else "failed"
        )  # fmt: skip

    def close(self) -> None:
        """Count the request; further calls do nothing."""
        if self._closed:
            return
        self._closed = True
        reason: Cancelled = (
            "disconnected" if self.outcome == "cancelled"
            else "deadline" if self.outcome == "deadline"
            else "failed"
        )  # fmt: skip
        for choice in self._choices.values():
            choice.close(reason)
        self._metrics.running.dec()
        self._metrics.requests.labels(self.outcome).inc()
        self._metrics.refresh()


class _ChoiceMetrics:
    """One of a request's choices: its running sequences, tokens and seconds."""

    def __init__(self, metrics: Metrics, options: MIRLOptions, started: float) -> None:
        self._metrics = metrics
        self._options = options
        self._started = started
        self._described: list[Description] = []
        self._described_tokens = 0
        self._sampling = 0
        self._chains = 0
        self._decided = False

    def event(self, event: Event) -> None:
        """Count an event of this choice."""
        metrics = self._metrics
        match event:
            case Started():
                self._now_sampling(0 if self._options.steered else self._options.descriptions)
            case Branched(descriptions, chains):
                self._chains += chains
                metrics.chains_started.inc(chains)
                self._now_sampling(self._sampling + descriptions + chains)
            case Described(description, tokens):
                self._described.append(description)
                self._count_described(tokens)
                self._now_sampling(self._sampling - 1)
            case Gated(descriptions):
                metrics.described(descriptions)
                kept = sum(description.kept for description in descriptions)
                self._fork(0 if self._options.waves else self._options.forks * kept)
            case FellBack():
                metrics.described(tuple(self._described))
                self._fork(1)
            case Decided(_, _, outstanding):
                self._decided = outstanding > 0
                metrics.decision_seconds.observe(time.perf_counter() - self._started)
            case ChainDone(chain):
                self._chain_done(chain)
            case Finished(result):
                self._finished(result)

    def close(self, reason: Cancelled) -> None:
        """Count the sequences that still run as cancelled for this reason."""
        self._now_sampling(0)
        self._metrics.chains_cancelled.labels(reason).inc(self._chains)

    def _now_sampling(self, sequences: int) -> None:
        self._metrics.sequences.inc(sequences - self._sampling)
        self._sampling = sequences

    def _fork(self, chains: int) -> None:
        self._chains = chains
        self._metrics.chains_started.inc(chains)
        self._now_sampling(chains)

    def _count_described(self, tokens: int) -> None:
        self._described_tokens += tokens
        self._metrics.tokens.labels("describe", "sampled").inc(tokens)

    def _chain_done(self, chain: Chain) -> None:
        self._chains -= 1
        self._now_sampling(self._sampling - 1)
        stage = "plain" if chain.description is None else "fork"
        self._metrics.tokens.labels(stage, "sampled").inc(chain.tokens)
        if chain.finished:
            self._metrics.chains_finished.labels(chain.finish_reason).inc()
        else:
            self._metrics.chains_cancelled.labels("decided" if self._decided else "deadline").inc()

    def _finished(self, result: Result) -> None:
        metrics = self._metrics
        for stage in result.stages:
            metrics.stage_seconds.labels(stage.stage).observe(stage.seconds)
            if stage.scored_tokens:
                metrics.tokens.labels(stage.stage, "scored").inc(stage.scored_tokens)
            if stage.stage == "describe":
                # Drafts and samples that the end of the vote stopped have no event.
                self._count_described(stage.generated_tokens - self._described_tokens)
        if self._options.steered and result.fallback is None:
            metrics.described(result.descriptions)
        if result.vote is not None:
            metrics.vote_share.observe(result.vote.share)
