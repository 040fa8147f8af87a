"""models: the networks; tensors in, tensors out, on one device."""
