"""`POST /v1/chat/completions`: route, request and response."""
