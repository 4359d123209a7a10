"""The recipe of a reinforcement-learning run: its fields, checks, cost estimate and studies of several
runs."""
