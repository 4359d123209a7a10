"""Ranks of a run and what they share; imports torch.distributed and accelerate, nothing of the model."""
