"""vLLM servers over HTTP; imports httpx and `engines.common`, never vllm."""
