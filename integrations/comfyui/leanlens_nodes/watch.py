"""Updates ComfyUI's progress bar and preview during generation, and raises its exception on interruption."""

import io

import comfy.model_management
import comfy.utils
from PIL import Image

STEPS = 1000  # the bar takes integers
PREVIEW_SIDE = 512


class Watch:
    """The progress bar of the running node; created in `execute`, because only then ComfyUI knows the node."""

    def __init__(self) -> None:
        self.bar = comfy.utils.ProgressBar(STEPS)
        self.preview: Image.Image | None = None

    def progress(self, done: float) -> None:
        """Show `done`, 0 to 1.

        Raises:
            InterruptProcessingException: the user has interrupted; it must propagate to ComfyUI.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None if self.preview is None else ("JPEG", self.preview, PREVIEW_SIDE)
        self.preview = None  # sent once
        self.bar.update_absolute(round(done * STEPS), STEPS, preview)

    def look(self, picture: Image.Image | bytes) -> None:
        """Show a preview image with the next update of the bar."""
        opened = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        self.preview = opened.convert("RGB")
