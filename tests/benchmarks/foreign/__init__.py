"""How often a model calls its confidence calibrated: on its world's questions, and on what it never saw."""
