"""The model in training: rows to tensors, forward pass, objective and optimiser steps; imports torch."""
