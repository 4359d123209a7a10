"""vLLM in this process. The only package of the core that imports vllm."""
