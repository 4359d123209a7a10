"""`mirl-serve`: vLLM's own server with MIRL's routes, MIRL's flags, and safer defaults.

What can be wrong in the command line is checked here, before vLLM is imported, which takes up to a minute:
flags by a list of vLLM's (`flags.vllm`), the address, the model and the settings (`early_checks`). `--help`,
`--version` and `--dry-run` don't import it either. An error in the command line is one line on stderr and
exit code 2; SIGTERM ends the server with exit code 0. vLLM's own parser reads the flags again.

Defaults that differ from vLLM's, each with the flag that changes it back: the server listens on 127.0.0.1
only (`--host`); nothing is fetched by URL (`--allow-image-host` for images in chat completions,
`--allowed-media-domains` for URLs that vLLM's own endpoints fetch); MIRL logs the requests, not uvicorn
(`--no-disable-uvicorn-access-log`); vLLM's lines below a warning are left out, and its warnings while it
starts (`--log-level`); pages of other origins are refused (`--allowed-origins`); headers are bounded
(`--h11-max-…`, which vLLM's default HTTP parser ignores); no usage reports are sent (VLLM_NO_USAGE_STATS=0);
without a model the server loads the bundled one; on the CPU the engine arguments of `cpu_engine_args` apply.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mirl_server.cli.interrupts import quiet_stops


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server; return the exit code."""
    with quiet_stops():
        # Not at the top: Ctrl-C is quiet from here on.
        from mirl_server.cli.command import run

        return run(list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
