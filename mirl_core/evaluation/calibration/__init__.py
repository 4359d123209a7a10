"""`mirl-eval calibrate`: the choice of options and the fit of the confidence on dev questions; imports the
bank, methods and measures."""
