"""The vision model of DPG-Bench: a script and its requirements."""
