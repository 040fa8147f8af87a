"""flow: the flow-matching mathematics of Lens; pure functions from tensors and numbers to tensors and numbers."""
