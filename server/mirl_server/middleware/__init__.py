"""Layers before every route, as pure ASGI: request log, error shapes, access, admission, requests in
flight."""
