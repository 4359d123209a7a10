"""The world of fruit-sales charts: a column for each fruit, usual values that depend on the day, written
arithmetic."""
