"""Functions that vLLM 0.33 moved, imported from the module where the installed version has them.

Remove it when 0.32 is no longer supported.
"""

from __future__ import annotations

try:
    from vllm.entrypoints.common.cli_args import (
        make_arg_parser,
        resolve_default_chat_template_kwargs,
        validate_parsed_serve_args,
    )
    from vllm.entrypoints.common.startup import cli_env_setup
except ImportError:  # 0.32
    from vllm.entrypoints.launchers.cli_args import (
        make_arg_parser,
        resolve_default_chat_template_kwargs,
        validate_parsed_serve_args,
    )
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup

__all__ = [
    "cli_env_setup",
    "make_arg_parser",
    "resolve_default_chat_template_kwargs",
    "validate_parsed_serve_args",
]
