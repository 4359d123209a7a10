"""The trajectory bank, which samples every question once, and its files; imports the pipeline and tasks, no
method."""
