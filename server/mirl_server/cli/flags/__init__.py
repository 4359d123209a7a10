"""The flags of `mirl-serve`: MIRL's own (`server`, `limits`, `engines`) and vLLM's, from a list (`vllm`).

Imports `settings` and `media.rules`; never vllm.
"""
