"""A run from end to end: which stages have work, the process of each side, the evaluation, what is printed at the end.

The only room that may import all others, and it does so lazily: each process loads one side's engine.
"""
