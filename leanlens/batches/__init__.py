"""Captioned records to training batches: bucket rule, seeded stream, encoding with caches, packing, loss weights."""
