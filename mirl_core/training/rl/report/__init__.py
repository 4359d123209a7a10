"""Reports of a run for people: console, metrics, curves, plots, pages, Markdown; loads no model."""
