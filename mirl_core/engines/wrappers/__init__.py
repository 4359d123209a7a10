"""Engines around engines: forwarding and recording; imports `engines.base` only."""
