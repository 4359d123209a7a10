"""Helpers that several engines share; imports no backend."""
