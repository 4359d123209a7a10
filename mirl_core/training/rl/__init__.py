"""Reinforcement learning on the pipeline's own trajectories; descriptions and reasoning are rewarded apart.

recipe/            fields, checks, cost estimate, studies of several runs
planners/          questions → rollouts, rewards, advantages → training rows: `mirl`, and plain GRPO as `grpo`
rewards/           the reward of a chain by its answer and of a description by its MI
model/             training rows → log-probabilities, objective, optimiser steps, export
weight_sync/       new weights to the engine that samples
distributed/       the ranks of a run, and what they share
state/             the run's folder and its checkpoints
report/            metrics, console, curves, plots, pages, Markdown
dev_evaluation.py  accuracy on dev data during training
loop.py            rollouts → update → sync → checkpoint, until the recipe is done
run.py             a recipe → all of these, opened, turned by the loop and closed
"""
