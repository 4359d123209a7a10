"""The operator's settings and their sources. Imports the setting models of `media` and `observability`."""
