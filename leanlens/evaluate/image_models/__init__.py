"""Image models: what draws one column of a comparison, one file per kind of model."""
