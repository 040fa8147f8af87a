"""The entry point of the ComfyUI node pack, for use as a folder in `custom_nodes`."""

from .leanlens_nodes.nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
