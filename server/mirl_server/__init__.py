"""The server: MIRL's routes as a vLLM endpoint plugin, and `mirl-serve`, which runs vLLM's server with it.

Only `plugin`, `vllm_tools` and the launcher (`launch`, `vllm_flags`, `vllm_names`) import vllm, the launcher
only when it starts a server; everything else also serves a gateway without a GPU.
"""
