"""The flow-matching mathematics of Lens, as pure functions of tensors and numbers."""
