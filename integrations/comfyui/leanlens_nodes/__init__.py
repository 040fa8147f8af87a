"""ComfyUI nodes that generate images with leanlens, on a server or in ComfyUI's own process."""
