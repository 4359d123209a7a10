"""Handling of requests, the same for every API: reading, admission, the gate or the backend, streaming.

Imports `access`, `media`, `observability`, `settings` and `http`, and never `apis` or `middleware`.
"""
