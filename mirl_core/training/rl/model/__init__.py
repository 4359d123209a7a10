"""The model in training: training rows to tensors, forward pass, objective, optimiser steps, sharding;
imports torch."""
