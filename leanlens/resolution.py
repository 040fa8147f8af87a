"""Lists the image sizes of Lens, nine for sampling and 27 for training, and resolves a requested size to pixels.

Sources: Lens, arXiv 2605.21573, section 3 (training sizes); the sampling sizes are those of the released code. Aspect
ratios are written W:H, sizes (height, width), as the released code has them.
"""

from math import gcd

TOKEN_PIXELS = 16  # the autoencoder halves three times, and 2 x 2 latents make one token
MAX_PIXELS = 8192  # a side; nearly six times what the released models hold
DEFAULT_BASE_RESOLUTION = 1024
DEFAULT_ASPECT_RATIO = "1:1"

# Base resolution -> "W:H" -> (height, width). The second table is not the first one scaled: 1472 would give 2064.
BUCKETS: dict[int, dict[str, tuple[int, int]]] = {
    1024: {
        "1:2": (1472, 736),
        "9:16": (1376, 768),
        "2:3": (1248, 832),
        "3:4": (1152, 864),
        "1:1": (1024, 1024),
        "4:3": (864, 1152),
        "3:2": (832, 1248),
        "16:9": (768, 1376),
        "2:1": (736, 1472),
    },
    1440: {
        "1:2": (2080, 1040),
        "9:16": (1936, 1088),
        "2:3": (1760, 1168),
        "3:4": (1616, 1216),
        "1:1": (1440, 1440),
        "4:3": (1216, 1616),
        "3:2": (1168, 1760),
        "16:9": (1088, 1936),
        "2:1": (1040, 2080),
    },
}

# Base resolution -> (height, width), from wide to tall, as the paper lists them.
TRAINING_BUCKETS: dict[int, tuple[tuple[int, int], ...]] = {
    512: (
        (352, 704), (384, 672), (416, 640), (448, 608), (512, 512),
        (608, 448), (640, 416), (672, 384), (704, 352),
    ),
    768: (
        (544, 1088), (576, 1024), (640, 960), (672, 896), (768, 768),
        (896, 672), (960, 640), (1024, 576), (1088, 544),
    ),
    1024: (
        (736, 1472), (768, 1376), (832, 1248), (864, 1152), (1024, 1024),
        (1152, 864), (1248, 832), (1376, 768), (1472, 736),
    ),
}  # fmt: skip


def sizes_at(base_resolution: int) -> dict[str, tuple[int, int]]:
    """The nine sizes at a base resolution: aspect ratio "W:H" -> (height, width) in pixels.

    1024 and 1440 are the tables of the released code; another base scales the first and rounds to whole tokens.

    Raises:
        ValueError: `base_resolution` is not a positive multiple of 16.
    """
    require_whole_tokens("base_resolution", base_resolution)
    if base_resolution in BUCKETS:
        return dict(BUCKETS[base_resolution])
    return {
        ratio: (_scaled(height, base_resolution), _scaled(width, base_resolution))
        for ratio, (height, width) in BUCKETS[1024].items()
    }


def resolve_size(
    height: int | None = None,
    width: int | None = None,
    base_resolution: int | None = None,
    aspect_ratio: str | None = None,
) -> tuple[int, int]:
    """(height, width) in pixels from either a size or a bucket; the default is 1024 x 1024.

    Args:
        height, width: pixels, multiples of 16; both or neither.
        base_resolution: side of a square of the requested area, a multiple of 16; the default is 1024.
        aspect_ratio: "W:H", equal to one of the nine ("32:18" is 16:9); the default is "1:1".

    Raises:
        ValueError: a size that is not a multiple of 16, only one of height and width, an unknown ratio, or a size
            together with a bucket.
    """
    if height is None and width is None:
        sizes = sizes_at(DEFAULT_BASE_RESOLUTION if base_resolution is None else base_resolution)
        return sizes[_known_ratio(DEFAULT_ASPECT_RATIO if aspect_ratio is None else aspect_ratio)]
    if height is None or width is None:
        missing, given = ("height", f"width {width}") if height is None else ("width", f"height {height}")
        raise ValueError(f"{given} was given without {missing}; give both, or base_resolution and aspect_ratio")
    for name, value in (("base_resolution", base_resolution), ("aspect_ratio", aspect_ratio)):
        if value is not None:
            raise ValueError(
                f"{name} {value!r} cannot be combined with height {height} and width {width}; give one or the other"
            )
    require_whole_tokens("height", height)
    require_whole_tokens("width", width)
    return height, width


def _scaled(pixels: int, base_resolution: int) -> int:
    """`pixels` of the 1024 table scaled to another base, rounded half up to a whole token."""
    tokens = (2 * pixels * base_resolution + 1024 * TOKEN_PIXELS) // (2 * 1024 * TOKEN_PIXELS)
    return max(tokens, 1) * TOKEN_PIXELS


def _known_ratio(aspect_ratio: str) -> str:
    left, _, right = str(aspect_ratio).partition(":")
    if left.isdecimal() and right.isdecimal() and int(left) and int(right):
        divisor = gcd(int(left), int(right))
        reduced = f"{int(left) // divisor}:{int(right) // divisor}"
        if reduced in BUCKETS[1024]:
            return reduced
    raise ValueError(f"invalid aspect_ratio {aspect_ratio!r}: expected width:height, one of {', '.join(BUCKETS[1024])}")


def require_whole_tokens(name: str, pixels: int) -> None:
    """Raise a ValueError unless `pixels` is a positive multiple of 16; the message suggests the nearest values."""
    if isinstance(pixels, bool) or not isinstance(pixels, int):
        raise ValueError(f"invalid {name} {pixels!r}: expected a positive multiple of {TOKEN_PIXELS}")
    if pixels > MAX_PIXELS:
        raise ValueError(f"invalid {name} {pixels}: the limit is {MAX_PIXELS} pixels per side")
    if pixels >= TOKEN_PIXELS and pixels % TOKEN_PIXELS == 0:
        return
    below = pixels // TOKEN_PIXELS * TOKEN_PIXELS
    nearest = f"{below} and {below + TOKEN_PIXELS}" if below >= TOKEN_PIXELS else str(TOKEN_PIXELS)
    raise ValueError(f"invalid {name} {pixels}: expected a positive multiple of {TOKEN_PIXELS}; nearest: {nearest}")
