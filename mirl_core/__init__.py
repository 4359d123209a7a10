"""MIRL's algorithm: describe, score by mutual information, fork the best, vote.

Importing this package loads none of torch, vllm, transformers or fastapi; they come with the engine or
trainer that needs them. `tests/unit/test_light_imports.py` holds this.
"""

from __future__ import annotations

__version__ = "0.1.0"
