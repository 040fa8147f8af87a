"""pipeline: a request in, an image out. Read `pipeline.py` first; each other file is one step of it."""
