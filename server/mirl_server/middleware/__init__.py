"""Pure ASGI layers before every route: request log, requests in flight, error shapes, pass-through admission.

May import everything in `mirl_server` but `cli` and `vllm`.
"""
