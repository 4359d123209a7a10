"""Describe, score, gate, fork, vote: one request as a stream of events; imports the algorithm and
what that may import."""
