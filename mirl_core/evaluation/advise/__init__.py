"""The command `mirl-eval advise`: which way of answering a model gains from, on some hundred questions.

candidates.py   the ways of answering that are compared, and the options that serve them
measures.py     what the bank's samples tell about the model, with and without answers
intervals.py    intervals that hold for all comparisons together
rule.py         the decision, a pure function of figures
words.py        the decision in sentences
report.py       terminal table, advice.json, advice.md and the plot
settings.py     the mirl.json that serves the advice
run.py          the command: fills the bank, and calls the others
"""
