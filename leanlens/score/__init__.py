"""Scorers: images to numbers, one file per scorer, all behind one protocol (`protocol.py`)."""
