"""Engines around another engine: may import `engines.base`, no backend."""
