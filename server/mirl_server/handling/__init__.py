"""Requests on their way, whichever API they come by: reading, admission, the gate or the backend, streaming.

Imports `access`, `media`, `observability`, `settings` and `http`, and never `apis` or `middleware`.
"""
