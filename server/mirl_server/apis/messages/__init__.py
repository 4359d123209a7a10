"""`POST /v1/messages` (the Anthropic API): route, request and response."""
