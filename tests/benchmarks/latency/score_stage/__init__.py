"""Where the score stage spends its time."""
