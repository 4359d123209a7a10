"""`mirl-eval calibrate`: choose options and fit the confidence on dev questions; imports the bank, methods
and measures."""
