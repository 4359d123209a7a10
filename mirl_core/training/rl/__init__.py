"""Reinforcement learning on the pipeline's own trajectories; descriptions and reasoning are rewarded apart.

rows.py        what a planner hands to the trainer
planners/      rollouts by the pipeline, rewards, advantages: `mirl`, and plain GRPO as `grpo`
rewards/       what a trajectory is worth
advantages.py  rewards of a group to advantages
objective.py   clipped policy gradient by segment
policy.py      the model being trained: rows in, log-probabilities out
trainer.py     optimiser steps, exactly resumable
sync.py        the new weights into the rollout engine
loop.py        rollouts → update → sync → checkpoint, until the recipe is done
"""
