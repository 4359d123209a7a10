"""The gated stages: sample N descriptions, score and gate them, fork the kept ones into chains."""
