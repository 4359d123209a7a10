"""Ranks of a run and what they share; imports torch.distributed through accelerate."""
