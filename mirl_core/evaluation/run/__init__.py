"""The command `mirl-eval run`: its settings and questions, what its methods need of the bank, the run itself
with its progress bars; imports the bank, methods, measures and the report."""
