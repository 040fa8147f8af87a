"""Makes training batches from captioned images: buckets, streams, cached encoding, packing and loss weights."""
