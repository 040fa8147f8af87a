"""train: batches to checkpoints to a pipeline folder."""
