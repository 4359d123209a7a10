"""A run on disk: its folder and its checkpoints; imports the model's trainer."""
