"""vLLM's own tool parsers, as functions from a text to its tool calls."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import VLLMError
from vllm.tool_parsers import ToolParserManager

from mirl_core.algorithm.answers.forms import Calls
from mirl_core.errors import RequestError
from mirl_server.handling.reading.tools import ToolParser
from mirl_server.observability.logs import trail

logger = logging.getLogger(__name__)


def find_tool_parser(args: Namespace, tokenizer: Any) -> ToolParser | None:
    """Return the tool parser of the server's flags; None without one."""
    if not args.enable_auto_tool_choice or not args.tool_call_parser:
        return None
    kind = ToolParserManager.get_tool_parser(args.tool_call_parser)

    def for_request(tools: Sequence[dict[str, Any]]) -> Callable[[str], Calls]:
        try:
            request = ChatCompletionRequest(
                messages=[{"role": "user", "content": ""}], tools=list(tools), tool_choice="auto"
            )
            kind(tokenizer, request.tools)
        except (VLLMError, ValidationError, ValueError, TypeError) as error:
            raise RequestError(f"tools can't be read: {error}"[:400], param="tools") from error

        def parse(text: str) -> Calls:
            try:
                # Parsers keep state: each text needs a new parser.
                extraction = kind(tokenizer, request.tools).extract_tool_calls(text, request)
            except Exception as error:  # noqa: BLE001
                # A parser may fail on a model's text, which then counts as no call. Its error may quote that.
                logger.error("the tool parser failed on a chain: %s", trail(error))
                return ()
            if not extraction.tools_called:
                return ()
            return [(call.function.name, call.function.arguments) for call in extraction.tool_calls]

        return parse

    return for_request


def marker_tokens(args: Namespace, tokenizer: Any) -> list[str]:
    """Return the special tokens that the parser searches for: decoded text must keep them."""
    if not args.enable_auto_tool_choice or not args.tool_call_parser:
        return []
    parser = ToolParserManager.get_tool_parser(args.tool_call_parser)(tokenizer)
    # Some parsers name their markers in instances, others in their class.
    values = [value for owner in (parser, *type(parser).__mro__) for value in vars(owner).values()]
    return sorted(
        set(tokenizer.all_special_tokens).intersection(value for value in values if isinstance(value, str))
    )
