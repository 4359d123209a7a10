"""A request's work under admission: what it counts for, and a pipeline that starts when its turn has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import Request

from mirl_core.algorithm.answers.forms import Form
from mirl_core.algorithm.budget import fanout
from mirl_core.config import Limits, MIRLOptions
from mirl_core.engines.base import RequestContext, Sampling
from mirl_core.errors import RequestError
from mirl_core.pipeline.events import ChainDone, Described, Event, Finished
from mirl_core.pipeline.run import Pipeline
from mirl_core.types import Conversation
from mirl_server.access.authentication import Caller, caller_of
from mirl_server.handling import choices
from mirl_server.handling.choices import IndexedEvent
from mirl_server.handling.response_format import check_sizes
from mirl_server.handling.service import Service
from mirl_server.handling.streaming import unless_gone
from mirl_server.media.images import check_processing

_LENGTHS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


def fan_out(options: MIRLOptions, max_tokens: int, n: int = 1, *, forks: bool = True) -> tuple[int, int]:
    """Sequences (n times N + k·m) and tokens that a gated request may come to.

    Args:
        max_tokens: bounds a trajectory.
        n: how many answers it asks for.
        forks: whether chains are started; describing starts none.
    """
    bounds = fanout(options, max_tokens, answers=n, forks=forks)
    return bounds.sequences, bounds.tokens


async def run_admitted(
    service: Service,
    pipeline: Pipeline,
    caller: Caller,
    conversation: Conversation,
    options: MIRLOptions,
    sampling: Sampling,
    context: RequestContext,
    n: int = 1,
    form: Form | None = None,
    *,
    forks: bool = True,
) -> AsyncGenerator[IndexedEvent, None]:
    """The events of `n` answers, from the request's turn on; the turn is held until they are closed.

    The time that it waited counts in its `timeout`. Tokens are counted to the caller as they come, so that a
    client that leaves before the end has used what was generated for it.

    Args:
        forks: whether whoever listens goes on after the gate; else room is taken for descriptions alone.

    Raises:
        BusyError, DrainingError: before the first event.
    """
    sequences, tokens = fan_out(options, sampling.max_tokens, n, forks=forks)
    async with service.admit(caller, sequences, tokens, options.timeout) as waited:
        if options.timeout is not None and waited:
            left = max(options.timeout - waited, 0.001)
            options = options.model_copy(update={"timeout": left})
        caller.generated = 0
        generated: Counter[int] = Counter()
        answers = choices.answer(pipeline, conversation, options, sampling, context, n, form)
        async with aclosing(answers) as events:
            async for told in events:
                _count(generated, *told)
                caller.generated = generated.total()
                yield told


def check_plain(body: Mapping[str, Any], limits: Limits) -> None:
    """What would keep the backend busy for long, or trip it, whichever of its endpoints it is for.

    Raises:
        RequestError, RequestTooLargeError: the form of answers, or the size that images shall have, is over
            the limits; the type of a content part is no text.
    """
    check_sizes(body)
    _check_types(body.get("messages"))
    check_processing(body.get("mm_processor_kwargs"), limits)


def _check_types(messages: object) -> None:
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and not isinstance(part.get("type", ""), str):
                where = f"messages[{number}].content[{place}]"
                raise RequestError(f"{where}: its type must be text, like 'image_url'", param=where)


def plain_work(body: Mapping[str, Any], longest: int) -> tuple[int, int]:
    """Sequences and tokens that a plain request may come to, whichever of the backend's endpoints it is for.

    What is of the wrong type or size is the backend's to refuse, and counts for little here.

    Args:
        longest: tokens of a sequence that says no limit of its own.
    """
    sampling = body.get("sampling_params")
    said = {**body, **(sampling if isinstance(sampling, dict) else {})}
    sequences = _whole(said.get("n"), 1) * _prompts(body)
    length = next((_whole(said[name], longest) for name in _LENGTHS if said.get(name) is not None), longest)
    return sequences, sequences * min(length, longest)


def _prompts(body: Mapping[str, Any]) -> int:
    """How many prompts a body brings: of completions, a batch of conversations, or items to score."""
    for several in (body.get("prompt"), body.get("messages"), body.get("items"), body.get("questions")):
        if isinstance(several, dict) and several:
            return len(several)
        # A list of ids is one prompt; a list of messages, which are dicts, one conversation.
        if isinstance(several, list) and several and isinstance(several[0], str | list):
            return len(several)
    return 1


def _whole(value: object, default: int) -> int:
    # The backend takes "8" for 8, too.
    try:
        number = int(value) if isinstance(value, int | float | str) else default
    except (ValueError, OverflowError):
        return default
    return number if number >= 1 else default


async def take_turn(
    service: Service, request: Request, closing: AsyncExitStack, sequences: int, tokens: int
) -> None:
    """Wait for a plain request's turn, and hold it until `closing` is closed. Its body must have been read.

    Raises:
        BusyError, DrainingError: as `Admission.admit`.
        ClientGone: the client left before its turn.
    """
    caller = caller_of(request)
    turn = closing.enter_async_context(service.admit(caller, sequences, tokens, kind="plain"))
    # A task that watches for the client costs time, and without a wait there is nothing to watch.
    at_once = service.admission.has_room(sequences, tokens, "plain")
    await (turn if at_once else unless_gone(request.receive, turn))


def _count(generated: Counter[int], index: int, event: Event) -> None:
    """Tokens by answer."""
    if isinstance(event, Described):
        generated[index] += len(event.description.token_ids)
    elif isinstance(event, ChainDone):
        generated[index] += event.chain.tokens
    elif isinstance(event, Finished):
        generated[index] = event.result.completion_tokens
