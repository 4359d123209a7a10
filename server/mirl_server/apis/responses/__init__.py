"""`POST /v1/responses`: route, request and response."""
