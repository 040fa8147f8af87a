"""Lists the nine image sizes of Lens.

The numbers equal those of `leanlens.resolution`, which a test compares. They are repeated here so that the pack does
not need leanlens when a server generates the images.
"""

BASES = (256, 512, 768, 1024, 1440)
# Aspect ratio, width to height -> (width, height) at base 1024, from the released code.
SHAPES = {
    "1:1": (1024, 1024),
    "2:1": (1472, 736),
    "16:9": (1376, 768),
    "3:2": (1248, 832),
    "4:3": (1152, 864),
    "3:4": (864, 1152),
    "2:3": (832, 1248),
    "9:16": (768, 1376),
    "1:2": (736, 1472),
}
# At 1440 the released table is not the first one scaled.
LARGE = {"2:1": (2080, 1040), "1:2": (1040, 2080)}


def size_of(base: int, aspect: str) -> tuple[int, int]:
    """(width, height): the released size at 1024 and 1440, scaled to whole tokens of 16 pixels at any other base."""
    if base == 1440 and aspect in LARGE:
        return LARGE[aspect]
    width, height = SHAPES[aspect]
    return _scaled(width, base), _scaled(height, base)


def _scaled(pixels: int, base: int) -> int:
    return max((2 * pixels * base + 16384) // 32768, 1) * 16
