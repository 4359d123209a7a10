"""Gated and passed-through requests, whichever API they came by: reading, admission, running, streaming."""
