"""What people read of a run: console, metrics, curves, plots, pages, Markdown."""
