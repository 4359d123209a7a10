"""The recipe of a reinforcement-learning run: fields, checks, cost estimate, and studies of several runs;
loads no model."""
