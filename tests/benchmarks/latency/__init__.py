"""Latency and cost of whole requests, method by method, on one vLLM engine in this process."""
