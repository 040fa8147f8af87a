"""ComfyUI while a picture is drawn: its progress bar, its preview, its stop button.

Comes in: how far the drawing is. Goes out: what the user sees, or ComfyUI's own exception when they have interrupted.
"""

import io

import comfy.model_management
import comfy.utils
from PIL import Image

STEPS = 1000  # the bar counts whole numbers
PREVIEW_SIDE = 512


class Watch:
    """The bar of the running node; made in `execute`, since ComfyUI knows only then which node runs."""

    def __init__(self) -> None:
        self.bar = comfy.utils.ProgressBar(STEPS)
        self.preview: Image.Image | None = None

    def progress(self, done: float) -> None:
        """Show `done`, 0 to 1.

        Raises:
            InterruptProcessingException: the user has pressed stop; ComfyUI expects it to pass.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None if self.preview is None else ("JPEG", self.preview, PREVIEW_SIDE)
        self.preview = None  # sent once
        self.bar.update_absolute(round(done * STEPS), STEPS, preview)

    def look(self, picture: Image.Image | bytes) -> None:
        """Show a half-drawn picture at the next step of the bar."""
        opened = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        self.preview = opened.convert("RGB")
