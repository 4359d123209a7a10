"""The trajectory bank: every question is sampled once, and every method is replayed from what was sampled."""
