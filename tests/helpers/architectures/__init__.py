"""Tiny random checkpoints of the vision-language models that people serve, with their real processor classes.

    vocabulary.py   tokenizers with a family's special tokens
    templates.py    chat templates in each family's shape
    qwen.py google.py llava.py idefics.py mistral.py   configurations and processors
    weights.py      random weights, written as a folder
    matrix.py       runs the same conversations on each: a process of its own (`overlay.py`)

Everything is made offline, in about a second each, with at most 0.31M parameters.
"""
