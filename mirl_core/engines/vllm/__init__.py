"""vLLM in this process: may import `engines.common`, and alone in `mirl_core` vllm."""
