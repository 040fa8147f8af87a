"""The size of an image by the options of a command."""

import re
from pathlib import Path


def image_size(size: str | None, aspect: str | None, base: int | None, own: int, image: Path | None) -> dict[str, int]:
    """Height and width: as the options say, or of the picture to start from, or the model's `own` square."""
    from leanlens.resolution import resolve_size

    if size is not None:
        if aspect is not None or base is not None:
            raise ValueError("give either --size, or --aspect and --base")
        match = re.fullmatch(r"(\d{1,6})[xX×](\d{1,6})", size)
        if not match:
            raise ValueError(f"invalid --size {size!r}: expected width and height in pixels, such as 1024x768")
        height, width = resolve_size(int(match[2]), int(match[1]))
    elif aspect is not None or base is not None:
        height, width = resolve_size(base_resolution=own if base is None else base, aspect_ratio=aspect)
    elif image is not None:
        from leanlens.pipeline.image import open_picture, picture_size

        height, width = (max(16, side // 16 * 16) for side in picture_size(open_picture(image, "--image")))
    else:
        height = width = own
    return {"height": height, "width": width}


def planned_size(size: str | None, aspect: str | None, base: int | None, image: Path | None) -> dict[str, int]:
    """Height and width for the planner; empty where the model's own size is meant."""
    if not (size or aspect or base or (image and image.is_file())):
        return {}
    return image_size(size, aspect, base, 1024, image)


def width_and_height(size: str | None) -> tuple[int, int] | tuple[None, None]:
    """Of WxH; None without it, where the model's own size is meant."""
    if size is None:
        return None, None
    sides = image_size(size, None, None, 0, None)
    return sides["width"], sides["height"]
