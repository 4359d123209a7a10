"""vLLM servers over HTTP: may import httpx, transformers and `engines.common`, never vllm or torch."""
