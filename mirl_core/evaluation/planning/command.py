"""The command `mirl-eval plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["plan_command"]

METHODS = "greedy,sc@16,paper,gate,waves,steered,triple,fast"


def plan_command(
    text_tokens: Annotated[int, typer.Option(help="Prompt without images: template, question.")],
    image_tokens: Annotated[int, typer.Option(help="Tokens of all images of a prompt.")],
    description_tokens: Annotated[int, typer.Option(help="Mean length of a description.")],
    chain_tokens: Annotated[int, typer.Option(help="Mean length of reasoning and answer.")],
    plain_tokens: Annotated[
        int | None,
        typer.Option(help="Mean length of what greedy and sc@K sample; description and chain if not given."),
    ] = None,
    images: Annotated[int, typer.Option(help="Images of a prompt.")] = 1,
    rate: Annotated[float, typer.Option(help="Requests that arrive per second.")] = 1.0,
    utilization: Annotated[float, typer.Option(help="Share of a GPU's capacity that they may take.")] = 0.7,
    methods: Annotated[
        str, typer.Option(help="Methods, with commas: sc@16, presets, 'paper(keep=3;forks=1)', ….")
    ] = METHODS,
    model: Annotated[
        str | None,
        typer.Option(help="Model folder, mirl-charts or mirl-tiny, whose mirl.json has the options of mirl."),
    ] = None,
    prefill_rate: Annotated[float | None, typer.Option(help="Prefilled tokens/s of one GPU.")] = None,
    decode_rate: Annotated[
        str | None,
        typer.Option(help="Sampled tokens/s of one GPU by sequences at once: 1:150,16:2000,64:6000."),
    ] = None,
    score_rate: Annotated[
        float | None, typer.Option(help="Scored tokens/s; as prefilled if not given.")
    ] = None,
    image_seconds: Annotated[float | None, typer.Option(help="Of an image in the vision encoder.")] = None,
    render_seconds: Annotated[float | None, typer.Option(help="Of rendering a request, once.")] = None,
    call_seconds: Annotated[float | None, typer.Option(help="Of an engine call, besides its tokens.")] = None,
    rates: Annotated[
        Path | None, typer.Option(help="JSON file with the rates; options given beside it count more.")
    ] = None,
    batch: Annotated[
        float | None,
        typer.Option(
            help="Sequences that a full GPU decodes at once; the most in --decode-rate if not given."
        ),
    ] = None,
    expect: Annotated[
        str, typer.Option(help="What adaptive methods do, KEY=VALUE with commas; see docs/scaling.md.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Work out on paper what methods take: tokens, GPU seconds, GPUs for an arrival rate, and latency.

    Nothing is loaded and nothing runs. The rates are those of your GPU with your model, as measured by you.
    """
    from mirl_core.bundled import resolve
    from mirl_core.config import ModelSettings
    from mirl_core.errors import ConfigError
    from mirl_core.evaluation.planning.inputs import Workload, read_expected, read_rates, validated
    from mirl_core.evaluation.planning.plan import plan
    from mirl_core.evaluation.planning.report import print_plan
    from mirl_core.evaluation.planning.requests import planned_methods

    workload = validated(
        Workload,
        {
            "text_tokens": text_tokens,
            "image_tokens": image_tokens,
            "images": images,
            "description_tokens": description_tokens,
            "chain_tokens": chain_tokens,
            "plain_tokens": plain_tokens,
            "rate": rate,
            "utilization": utilization,
            "batch": batch,
        },
    )
    expected = read_expected(expect)
    measured = read_rates(
        rates,
        prefill=prefill_rate,
        decode=decode_rate,
        score=score_rate,
        call=call_seconds,
        image=image_seconds,
        render=render_seconds,
    )
    settings = ModelSettings() if model is None else ModelSettings.load(resolve(model))
    if settings is None:
        raise ConfigError(f"model: {model} holds no mirl.json; leave --model out", param="model")
    result = plan(planned_methods(methods, settings, workload, expected), workload, expected, measured)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=1, allow_nan=False))
    else:
        print_plan(result)
