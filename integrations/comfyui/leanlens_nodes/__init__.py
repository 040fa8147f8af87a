"""Nodes that draw with leanlens, at a server or in ComfyUI's own process."""
