"""Lens in ComfyUI: what this folder offers when it lies in `custom_nodes`."""

from .leanlens_nodes.nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
