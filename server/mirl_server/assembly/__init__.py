"""What the server inside vLLM and the gateway have in common: how their app is composed, and how it stops.

Imports `apis`, `middleware` and below; never vllm.
"""
