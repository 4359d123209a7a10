"""Supervised training of the charts model: language first, then looking, then reasoning; and its properties."""
