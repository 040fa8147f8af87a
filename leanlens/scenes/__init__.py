"""Generates synthetic images from openly licensed icons, with two captions and exact ground truth for each seed.

This package never imports torch.
"""
