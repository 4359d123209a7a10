"""Supervised training of the bundled model; imports torch, transformers and the worlds of `tasks`."""
