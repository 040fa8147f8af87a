"""Evaluation: a model asked what it was never shown, its answers scored, and the scores as tables.

Comes in: opened models. Goes out: numbers with their counts and intervals, and files. Knows nothing of training.
"""
