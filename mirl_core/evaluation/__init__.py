"""`mirl-eval`: the trajectory bank, methods, measures, calibration and reports; imports tasks, pipeline and
engines, never training."""
