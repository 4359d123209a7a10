"""Requests of other APIs translated into chat's fields, and errors translated back; imports `handling`."""
