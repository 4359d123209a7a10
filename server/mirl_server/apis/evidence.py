"""The `mirl` object of a response and of a stream's chunks, in every API."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mirl_core.config import MIRLOptions
from mirl_core.pipeline.events import Branched, ChainDone, Decided, Described, FellBack, Gated, Started
from mirl_core.types import Chain, Decoding, Description, Result, StageUsage, Vote

Json = dict[str, Any]
Budget = Mapping[str, int]
"""N, k and m of a request, by the names of their options; or the numbers of a steered request."""


def budget_of(options: MIRLOptions) -> Budget:
    """Return the budget of a request; `decoded` and `descriptions` of a steered one."""
    if options.steered:
        return {"decoded": len(options.contrast), "descriptions": options.descriptions}
    return {"descriptions": options.descriptions, "keep": options.keep, "forks": options.forks}


def finish_reason(result: Result) -> str:
    """Return OpenAI's finish reason of a chain; a chain cut by the deadline ends with `length` too."""
    return "stop" if result.finish_reason == "stop" else "length"


def reasoning_texts(result: Result) -> list[str]:
    """Return the texts of a response's reasoning: its description and the chain's reasoning, unless empty."""
    description = result.description.text if result.description else ""
    return [text for text in (description, result.reasoning) if text]


def evidence(result: Result) -> Json:
    """Return the evidence of a result."""
    representative = result.representative
    return {
        "descriptions": [description_json(description) for description in result.descriptions],
        "chains": [chain_json(chain) for chain in result.chains],
        "representative": {"description": representative.description, "fork": representative.fork},
        "vote": vote_json(result.vote),
        "confidence": result.confidence,
        "calibrated": result.calibrated,
        "uncalibrated": result.uncalibrated,
        "warnings": list(result.warnings),
        "margin": result.margin,
        "mi_weight": result.mi_weight,
        "aggregation": result.aggregation,
        "partial": result.partial,
        "fallback": result.fallback,
        "stages": [stage_json(stage) for stage in result.stages],
    }


def stage_json(stage: StageUsage) -> Json:
    """Return the cost of a stage."""
    return {
        "stage": stage.stage,
        "sequences": stage.sequences,
        "generated_tokens": stage.generated_tokens,
        "scored_tokens": stage.scored_tokens,
        "seconds": round(stage.seconds, 6),
    }


def description_json(description: Description) -> Json:
    """Return a description; MI in nats."""
    fields = {
        "index": description.index,
        "text": description.text,
        "tokens": len(description.token_ids),
        "mi": description.mi,
        "mi_per_token": description.mi_per_token,
        "score": description.score,
        "kept": description.kept,
        "reason": description.reason,
    }
    if description.votes is not None:
        fields |= {"votes": description.votes, "repeats": description.repeats}
    if description.decoding is not None:
        fields["decoding"] = _decoding_json(description.decoding)
    if description.token_mi is not None:
        fields["token_mi"] = list(description.token_mi)
    if description.token_pmi is not None:
        fields["token_pmi"] = list(description.token_pmi)
    if description.token_texts is not None:
        fields["token_texts"] = list(description.token_texts)
    return fields


def _decoding_json(decoding: Decoding) -> Json:
    switches = [
        {
            "position": switch.position,
            "drafted": switch.drafted,
            "chosen": switch.chosen,
            "gain": switch.gain if math.isfinite(switch.gain) else None,
        }
        for switch in decoding.switches
    ]
    return {"mi_weight": decoding.weight, "rounds": decoding.rounds, "switches": switches}


def chain_json(chain: Chain) -> Json:
    """Return a chain and its answer."""
    return {
        "description": chain.description,
        "fork": chain.fork,
        "answer": chain.answer,
        "tokens": chain.tokens,
        "finish_reason": chain.finish_reason,
        "votes": chain.votes,
    }


def vote_json(vote: Vote | None) -> Json | None:
    """Return the vote; None where no answers cluster."""
    return None if vote is None else {"answer": vote.answer, "counts": dict(vote.counts), "share": vote.share}


def started_json(event: Started, budget: Budget) -> Json:
    """Return the first event of a choice."""
    return {"event": "started", "prompt_tokens": event.prompt_tokens, "budget": dict(budget)}


def stage_event(event: Branched | Described | Gated | FellBack | ChainDone | Decided) -> Json:
    """Return an event between the first and the last of a choice."""
    if isinstance(event, Branched):
        return {"event": "branched", "descriptions": event.descriptions, "chains": event.chains}
    if isinstance(event, Described):
        return {"event": "described", "description": description_json(event.description)}
    if isinstance(event, Gated):
        descriptions = [description_json(description) for description in event.descriptions]
        return {"event": "gated", "descriptions": descriptions, "mi_weight": event.mi_weight}
    if isinstance(event, FellBack):
        return {"event": "fell_back", "reason": event.reason}
    if isinstance(event, ChainDone):
        return {"event": "chain", "chain": chain_json(event.chain)}
    representative = {"description": event.representative.description, "fork": event.representative.fork}
    return {
        "event": "decided",
        "vote": vote_json(event.vote),
        "representative": representative,
        "outstanding": event.outstanding,
    }
