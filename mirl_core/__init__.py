"""MIRL's algorithm: describe, score by mutual information, fork the best, vote.

Importing this package loads none of torch, vllm, transformers or fastapi; the engine or trainer that needs
them imports them. `tests/unit/repository/test_light_imports.py` checks this.
"""

from __future__ import annotations

__version__ = "0.1.0"
