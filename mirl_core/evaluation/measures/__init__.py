"""Outcomes of methods as figures with intervals: accuracy, cost, selection quality, comparisons; imports
tasks."""
