"""The server: MIRL's routes as a vLLM endpoint plugin, and `mirl-serve`, which runs vLLM's server with it.

Only `plugin` and `cli` import vllm, and `cli` only when it starts a server; everything else also serves a
gateway without a GPU.
"""
