"""Scenes: an endless, exactly labelled picture set drawn from openly licensed icons.

Comes in: a seed. Goes out: a picture, a brief and a dense caption, and the ground truth. Knows nothing of models and
never imports torch.
"""
