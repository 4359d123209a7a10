"""Logs, metrics and traces. May import `http`, `settings` and `media.rules`, never `apis` or `vllm`."""
