"""Scorers: pictures to numbers, each in a file of its own, all behind one protocol (`protocol.py`).

Comes in: pictures, prompts, and the ground truth where there is one. Goes out: named values. Knows nothing of the
models that drew the pictures.
"""
