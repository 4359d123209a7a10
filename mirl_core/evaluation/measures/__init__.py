"""Outcomes of methods as figures with intervals: accuracy, cost, selection quality, comparisons; imports the
bank's records and tasks."""
