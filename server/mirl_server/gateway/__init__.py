"""The gateway: MIRL's routes over vLLM servers elsewhere (`mirl-serve --engine-url`).

Imports `cli`'s flags, `assembly` and below; never vllm, torch, or the room `vllm`.
"""
