"""weights: files in every layout people hold <-> state dicts, checked against `models/`."""
