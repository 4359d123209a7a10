"""What a request may sample, checked before anything is."""

from __future__ import annotations

from mirl_core.config import MIRLOptions
from mirl_core.errors import RequestError


def check_budget(options: MIRLOptions) -> None:
    """Half of `max_total_tokens` goes to descriptions, the rest to chains: both must be worth it.

    Raises:
        RequestError: there isn't a token or two for each sequence.
    """
    total = options.max_total_tokens
    if total is None:
        return
    kept = options.descriptions if options.gate == "none" else min(options.keep, options.descriptions)
    needed = 2 * max(options.descriptions, kept * options.forks)
    if total < needed:
        raise RequestError(
            f"mirl.max_total_tokens leaves {total} for an answer, but this many descriptions and chains "
            f"need at least {needed}; raise it or lower mirl.descriptions, mirl.keep or mirl.forks",
            param="mirl.max_total_tokens",
        )
