"""Connections, bodies and error responses. May import `settings` and uvicorn, not the algorithm."""
