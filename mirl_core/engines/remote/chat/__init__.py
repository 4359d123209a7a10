"""Chat completions, for servers without vLLM's token routes: may import `engines.remote`."""
