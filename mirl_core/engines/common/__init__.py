"""Helpers that several engines share: may import `engines.base`, no backend."""
