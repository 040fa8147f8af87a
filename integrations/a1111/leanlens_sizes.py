"""Lists the image sizes of Lens and finds the one nearest to the web UI's sliders.

The numbers equal those of `leanlens.resolution`, which a test compares.
"""

import math

# (width, height), from the released code.
SHAPES = {
    1024: (
        (1024, 1024), (1472, 736), (1376, 768), (1248, 832), (1152, 864), (864, 1152), (832, 1248), (768, 1376),
        (736, 1472),
    ),
    1440: (
        (1440, 1440), (2080, 1040), (1936, 1088), (1760, 1168), (1616, 1216), (1216, 1616), (1168, 1760), (1088, 1936),
        (1040, 2080),
    ),
}  # fmt: skip
NEAREST_1024 = "Lens, 1024 class, shape nearest to the tab's"
NEAREST_1440 = "Lens, 1440 class, shape nearest to the tab's"
OWN = "The model's own"
TAB = "As in the tab"
CHOICES = [NEAREST_1024, NEAREST_1440, OWN, TAB]


def size_for(choice: str, width: int, height: int) -> "tuple[int, int] | None":
    """(width, height) for a choice and the tab's sliders; None for the model's default.

    Raises:
        ValueError: the tab's size is not a multiple of 16.
    """
    if choice == OWN:
        return None
    if choice == TAB:
        if width % 16 or height % 16:
            near = f"{max(16, round(width / 16) * 16)} x {max(16, round(height / 16) * 16)}"
            raise ValueError(f"leanlens: invalid size {width} x {height}: expected multiples of 16; nearest: {near}")
        return width, height
    shapes = SHAPES[1440 if choice == NEAREST_1440 else 1024]
    return min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1] * height / width)))
