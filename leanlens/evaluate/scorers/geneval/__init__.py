"""The detector of GenEval: a script and its requirements."""
