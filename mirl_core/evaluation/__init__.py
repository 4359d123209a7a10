"""Evaluation: worlds, data sets, measures and `mirl-eval`. Nothing heavy is imported here."""
