"""Reads and writes model weights in every supported layout, checked against `models/`."""
