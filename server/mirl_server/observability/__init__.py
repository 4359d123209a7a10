"""Logs, metrics and traces; imports no route and nothing of vLLM."""
