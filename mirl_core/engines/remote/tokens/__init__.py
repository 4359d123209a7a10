"""vLLM's token routes: may import `engines.remote`, but not `engines.remote.chat`."""
