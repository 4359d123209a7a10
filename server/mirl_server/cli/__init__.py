"""The command `mirl-serve`, its flags, the settings reference and the demo.

Imports `settings` and `media.rules` at the top, `mirl_server.vllm` only when a server starts; never vllm.
"""
