"""One request as a stream of events, gated or steered; imports the algorithm and what that may import."""
