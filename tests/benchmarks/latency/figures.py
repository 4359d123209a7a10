"""Figures of timed runs: pure functions from runs to numbers, and from numbers to Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from mirl_core.algorithm.costs import Rates, predict
from tests.benchmarks.latency.measure import Pass, TimedRun
from tests.benchmarks.latency.meter import rounds
from tests.benchmarks.tables import markdown

__all__ = ["Ratio", "cost_table", "costs", "latency_table", "ratio", "summarise"]

STAGES = ("render", "describe", "score", "fork", "sample", "plain")
DRAWS = 2000
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two methods' seconds."""

    value: float
    low: float | None
    """95% interval; None with fewer than two blocks of questions."""
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(
    ours: Sequence[float],
    theirs: Sequence[float],
    blocks: Sequence[int],
    statistic: Callable[[Array], Any] = np.mean,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Ratio:
    """Return statistic(ours) / statistic(theirs) with the percentile interval of a paired bootstrap.

    Whole blocks of questions are resampled: requests that were in flight together are not independent.

    Args:
        ours: seconds of one method by question.
        theirs: seconds of the other method, on the same questions.
        blocks: number of each question's block.

    Raises:
        ValueError: the lengths differ.
    """
    if not len(ours) == len(theirs) == len(blocks):
        raise ValueError(f"{len(ours)} and {len(theirs)} seconds in {len(blocks)} blocks are not paired")
    first, second = np.asarray(ours, float), np.asarray(theirs, float)
    value = float(statistic(first) / statistic(second))
    by_block = [np.flatnonzero(np.asarray(blocks) == block) for block in dict.fromkeys(blocks)]
    if len(by_block) < 2:
        return Ratio(value, None, None)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        drawn = np.concatenate([by_block[i] for i in rng.integers(len(by_block), size=len(by_block))])
        values.append(statistic(first[drawn]) / statistic(second[drawn]))
    low, high = np.quantile(values, (0.025, 0.975))
    return Ratio(value, float(low), float(high))


def summarise(measured: Pass, reference: str) -> dict[str, dict[str, Any]]:
    """Return each method's figures: seconds, ratios to the `reference` method, tokens, calls and stages.

    Seconds are of whole requests. Tokens and calls are means per request. The seconds of a stage are those
    that the pipeline reports; stages of steered requests run side by side.
    """
    by_method = _by_method(measured)
    against = by_method.get(reference)
    figures = {}
    for name, runs in by_method.items():
        seconds = [run.run.seconds for run in runs]
        figures[name] = {
            "n": len(runs),
            "mean_seconds": fmean(seconds),
            "p50_seconds": float(np.quantile(seconds, 0.5)),
            "p90_seconds": float(np.quantile(seconds, 0.9)),
            "requests_per_second": len(runs) / measured.wall[name],
            "generated_tokens": fmean(run.run.generated_tokens for run in runs),
            "scored_tokens": fmean(run.run.scored_tokens for run in runs),
            "prefilled_tokens": fmean(sum(work.prefill + work.scored for work in run.works) for run in runs),
            "sequences": fmean(sum(work.sequences for work in run.works if work.steps) for run in runs),
            "scoring_passes": fmean(sum(work.sequences for work in run.works if work.scored) for run in runs),
            "rounds": fmean(rounds(run.works) for run in runs),
            "right": fmean(run.run.right for run in runs),
            "stages": stage_seconds(runs),
        }
        if against is not None and name != reference:
            theirs = [run.run.seconds for run in against]
            blocks = [run.block for run in runs]
            figures[name]["ratio_of_means"] = _json(ratio(seconds, theirs, blocks))
            figures[name]["ratio_of_p50"] = _json(ratio(seconds, theirs, blocks, np.median))
    return figures


def stage_seconds(runs: Sequence[TimedRun]) -> dict[str, float]:
    """Return the mean seconds of each stage; `render` from the call that renders the question."""
    stages: dict[str, float] = {}
    for run in runs:
        rendered = next((work for work in run.works if work.stage == "render"), None)
        seconds = dict(run.run.stage_seconds)
        if rendered is not None:
            seconds["render"] = rendered.end - rendered.start
        for stage, value in seconds.items():
            stages[stage] = stages.get(stage, 0.0) + value / len(runs)
    return stages


def costs(measured: Pass, rates: Rates) -> dict[str, dict[str, Any]]:
    """Return by method the mean seconds, in all and by stage, measured and as the cost model predicts."""
    figures = {}
    for name, runs in _by_method(measured).items():
        predictions = [predict(run.works, rates, measured.together) for run in runs]
        stages = dict.fromkeys(stage for prediction in predictions for stage in prediction.stages)
        figures[name] = {
            "measured": fmean(run.run.seconds for run in runs),
            "predicted": fmean(prediction.seconds for prediction in predictions),
            "stages": stage_seconds(runs),
            "predicted_stages": {
                stage: fmean(prediction.stages.get(stage, 0.0) for prediction in predictions)
                for stage in stages
            },
        }
    return figures


def latency_table(figures: Mapping[str, Mapping[str, Any]], reference: str, graded: bool) -> str:
    """Return the figures of `summarise` in Markdown, a row a method.

    Args:
        graded: whether answers are the model's, so that their accuracy means something.
    """
    stages = [stage for stage in STAGES if any(stage in of["stages"] for of in figures.values())]
    head = [
        "method", "n", "p50, s", "p90, s", "mean, s", f"mean / {reference}", f"p50 / {reference}",
        "requests/s", "generated + scored tokens", "rounds", "sequences + passes",
        *(f"{stage}, s" for stage in stages), *(["right, %"] if graded else []),
    ]  # fmt: skip
    body = []
    for name, of in figures.items():
        body.append(
            [
                name,
                str(of["n"]),
                f"{of['p50_seconds']:.3g}",
                f"{of['p90_seconds']:.3g}",
                f"{of['mean_seconds']:.3g}",
                _text(of.get("ratio_of_means")),
                _text(of.get("ratio_of_p50")),
                f"{of['requests_per_second']:.3g}",
                f"{of['generated_tokens']:.0f} + {of['scored_tokens']:.0f}",
                f"{of['rounds']:.1f}",
                f"{of['sequences']:.1f} + {of['scoring_passes']:.1f}",
                *(f"{of['stages'][stage]:.3f}" if stage in of["stages"] else "" for stage in stages),
                *([f"{100 * of['right']:.0f}"] if graded else []),
            ]
        )
    return markdown(head, body)


def cost_table(figures: Mapping[str, Mapping[str, Any]], reference: str) -> str:
    """Return the figures of `costs` in Markdown: predicted / measured seconds, in all and by stage.

    Args:
        reference: the method to whose seconds those of every method are compared.
    """
    against = figures.get(reference)
    stages = [stage for stage in STAGES if any(stage in of["predicted_stages"] for of in figures.values())]
    body = []
    for name, of in figures.items():
        cells = []
        for stage in stages:
            predicted, measured = of["predicted_stages"].get(stage), of["stages"].get(stage)
            known = predicted is not None or measured is not None
            cells.append(f"{predicted or 0:.3f} / {measured or 0:.3f}" if known else "")
        whole = f"{of['predicted']:.3f} / {of['measured']:.3f}"
        ratios = [f"{of[kind] / against[kind]:.2f}" if against else "" for kind in ("predicted", "measured")]
        body.append([name, whole, " / ".join(filter(None, ratios)), *cells])
    return markdown(
        ["method", "request, s", f"request / {reference}", *(f"{stage}, s" for stage in stages)], body
    )


def _by_method(measured: Pass) -> dict[str, list[TimedRun]]:
    """Return each method's runs, in the order of the questions; the methods as in `wall`."""
    by_method: dict[str, list[TimedRun]] = {name: [] for name in measured.wall}
    for run in measured.runs:
        by_method[run.method].append(run)
    return by_method


def _json(value: Ratio) -> dict[str, float | None]:
    return {"value": value.value, "low": value.low, "high": value.high}


def _text(value: Mapping[str, float | None] | None) -> str:
    return "" if value is None else str(Ratio(**value))  # type: ignore[arg-type]
