"""Reinforcement learning on the pipeline's own trajectories; descriptions and reasoning are rewarded apart.

rows.py        what a planner hands to the trainer
planners/      rollouts by the pipeline, rewards, advantages: `mirl`, and plain GRPO as `grpo`
rewards/       what a trajectory is worth
advantages.py  rewards of a group to advantages
objective.py   clipped policy gradient by segment
policy.py      the model being trained: rows in, log-probabilities out (encoding.py, network.py, adapters.py)
trainer.py     optimiser steps, whoever has which rows (splitting.py, ranks.py, hardware.py)
checkpoint.py  a run on disk, continued exactly
sync.py        the new weights into the rollout engine
loop.py        rollouts → update → sync → checkpoint, until the recipe is done
"""
