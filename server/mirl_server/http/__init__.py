"""Connections, bodies and error responses; imports uvicorn and starlette, nothing of the algorithm."""
