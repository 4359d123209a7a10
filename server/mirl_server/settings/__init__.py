"""The operator's settings and how they are read; light to import."""
