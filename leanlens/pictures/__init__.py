"""Captioned images: reads folders, parquet and WebDataset, and writes tar shards."""
