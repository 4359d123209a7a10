"""Supervised training of the charts model: language, looking, reasoning; and its properties."""
