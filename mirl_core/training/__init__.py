"""Training: the bundled model's recipes and `mirl-train`. Nothing heavy is imported here."""
