"""Picture bytes to sizes and to upright 8-bit pixels: the one decoder, for every API and for training.

Comes in: a picture file or its bytes, or a picture that Pillow has opened. Goes out: its height and width, or a picture
in RGB, RGBA, L or LA. Knows nothing of captions, buckets or tensors.

The turn that EXIF or XMP asks for is made once, and the tag is dropped. Deeper levels become 8-bit, an animation gives
its first frame. What cannot be read is a ValueError with the reason, so that one bad file is one skipped record.

Source: EXIF 2.32, tag 0x0112 (Orientation: one SHORT from 1 to 8); XMP, tiff:Orientation; PNG, eXIf.
"""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image, ImageChops

IMAGE_SUFFIXES = (
    "jpg", "jpeg", "png", "webp", "jfif", "jpe", "bmp", "dib", "gif", "tif", "tiff", "avif", "jp2", "ppm", "pgm", "tga",
)  # fmt: skip
FOREIGN_SUFFIXES = ("heic", "heif", "jxl", "psd", "svg", "cr2", "cr3", "nef", "arw", "dng", "raw", "exr", "hdr")
"""Pictures that are not read; a dataset that holds one says so."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "PCX", "TGA")
"""Pillow's names of what is opened: none of them starts another program, as EPS does."""
MOST_PIXELS = 89_478_485  # of a file that a person names: what Pillow holds safe; it opens twice as many
HEAD_BYTES = 64 * 1024  # holds the size of nearly every JPEG and PNG
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_TURNING = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # where a picture's `info` may ask for a turn
_PNG = b"\x89PNG\r\n\x1a\n"
_quiet = Lock()  # warnings are silenced for the whole process, so by one thread at a time


def measure(head: bytes, whole: Callable[[], bytes], tail: Callable[[], bytes] | None = None) -> tuple[int, int]:
    """(height, width) in pixels, after the turn, from the first `HEAD_BYTES` bytes.

    Args:
        head: the first bytes, or all.
        whole: called for all bytes where the first ones do not suffice.
        tail: called for the last `HEAD_BYTES` bytes of a PNG, which may ask for a turn behind its pixels.

    Raises:
        ValueError: not a picture that can be read, with the reason.
    """
    try:
        if tail is not None and len(head) >= HEAD_BYTES and head.startswith(_PNG) and _asks_late(tail()):
            raise ValueError("what turns it stands behind its pixels")
        return upright_size(_header(head))
    except ValueError:
        return upright_size(_header(whole()))


def decode(data: bytes) -> Image.Image:
    """The picture as 8-bit RGB, upright, its transparency laid on white.

    Raises:
        ValueError: it cannot be read, or is cut short, with the reason.
    """
    return on_white(read_picture(data))


def read_picture(
    source: bytes | str | Path,
    formats: tuple[str, ...] = FORMATS,
    check: Callable[[Image.Image], None] | None = None,
) -> Image.Image:
    """A picture of any kind as L, LA, RGB or RGBA, upright, 8-bit.

    Args:
        source: the file's bytes, or its path.
        formats: Pillow's names of the formats that are opened.
        check: is shown the picture while only its header has been read; what it raises is passed on.

    Raises:
        ValueError: it cannot be read, or is cut short, with the reason.
        OSError: there is no such file.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    image = _opened(data, formats)
    if check is not None:
        check(image)
    try:
        image.load()
        return eight_bit(upright(image))
    except Exception as error:  # decoders of broken files raise anything
        raise ValueError(f"the picture cannot be decoded: {_reason(error)}") from error


def asks_for_turn(data: bytes) -> bool:
    """Whether a picture file asks to be shown turned or mirrored; False for what cannot be read."""
    try:
        return orientation(_header(data)) != 1
    except ValueError:
        return False


def orientation(image: Image.Image) -> int:
    """How a picture has to be turned, 1 to 8 as in EXIF; 1, which is not at all, where the tag is absent or no integer.

    A PNG that has been opened but not loaded is asked for what stands before its pixels only.
    """
    value = read_exif(image).get(_ORIENTATION, 1)
    return value if type(value) is int and value in _TURNS else 1


def read_exif(image: Image.Image, group: int | None = None) -> dict[int, Any]:
    """The EXIF fields of a picture by tag, of its first table or of a `group`; none where they are damaged."""
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Not the picture's own method: that of a PNG unpacks all pixels to look behind them.
            exif = Image.Image.getexif(image)
            return dict(exif) if group is None else dict(exif.get_ifd(group))
    except Exception:  # of a dozen classes
        return {}


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as it asks; what asked is dropped, so that nothing turns it twice.

    EXIF is dropped whole, not written anew: a mistyped field in it cannot be.
    """
    image.load()
    turn = _TURNS.get(orientation(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    for name in _TURNING:
        turned.info.pop(name, None)
    return turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) in pixels that `upright` gives."""
    sideways = orientation(image) in _SIDEWAYS and image.format != "TIFF"  # whose size Pillow turns when it opens it
    return (image.width, image.height) if sideways else (image.height, image.width)


def eight_bit(image: Image.Image) -> Image.Image:
    """A picture of any mode as L, LA, RGB or RGBA.

    16-bit grey keeps its upper 8 bits. Grey in 32-bit integers (mode I) is read as 8-bit where no value is above 255,
    else as 16-bit; grey in floats (F) as 0 to 1, 0 to 255 or 0 to 65535, by its largest value.

    Raises:
        ValueError: integers or floats outside these ranges, or a mode that Pillow cannot convert.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_grey(image)
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode in ("La", "RGBa"):  # colours that were multiplied by alpha
        return image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if image.mode == "PA" or "transparency" in image.info:
        return _with_alpha(image)
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def on_white(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, its transparency laid on white."""
    image = eight_bit(image)
    if image.mode in ("RGBA", "LA"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def brightness(image: Image.Image) -> Image.Image:
    """A mask of any mode as L, white where it marks; what is transparent is not marked."""
    image = eight_bit(image)
    grey = image.convert("L")
    return ImageChops.multiply(grey, image.getchannel("A")) if image.mode in ("RGBA", "LA") else grey


def to_levels(values: np.ndarray, what: str = "image") -> np.ndarray:
    """An array of any shape as uint8: uint8 as it is, uint16 by its upper 8 bits, bool as 0 and 255, floats of 0..1.

    Raises:
        ValueError: another dtype, or floats outside 0..1 by more than a hundredth.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    if values.dtype.kind != "f":
        raise ValueError(f"{what} has dtype {values.dtype}; uint8, uint16, bool or floats in 0..1 are accepted")
    require_unit(float(values.min()), float(values.max()), what)
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def require_unit(low: float, high: float, what: str) -> None:
    """Raise a ValueError unless values from `low` to `high` lie in 0..1, to a hundredth."""
    if not (low >= -0.01 and high <= 1.01):  # nan is in no range
        raise ValueError(f"{what} holds values from {low:g} to {high:g}; floats in 0..1 are accepted")


def suffix_of(data: bytes) -> str:
    """The suffix of a picture file by its first bytes: "jpg", "png", "webp", "gif", "bmp", "tif", "avif" or "jp2".

    Raises:
        ValueError: another format.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "avif"
    for mark, suffix in _MARKS.items():
        if data.startswith(mark):
            return suffix
    raise ValueError(f"the picture starts with {data[:8]!r}, which is none of JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF")


_MARKS = {
    b"\xff\xd8\xff": "jpg",
    _PNG: "png",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
    b"\0\0\0\x0cjP  \r\n\x87\n": "jp2",
}


def _header(data: bytes) -> Image.Image:
    """A picture opened, and unpacked where only that shows how it is to be turned."""
    image = _opened(data)
    if image.format == "PNG" and _asks_late(data[-HEAD_BYTES:]):
        try:
            image.load()
        except Exception as error:
            raise ValueError(f"the picture cannot be decoded: {_reason(error)}") from error
    return image


def _asks_late(end: bytes) -> bool:
    """Whether the last bytes of a PNG hold, behind its pixels, what may ask for a turn."""
    behind = end[end.rfind(b"IDAT") + 1 :]
    return any(mark in behind for mark in (b"eXIf", b"tiff:Orientation", b"Raw profile type exif"))


def _opened(data: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, and of many pixels: the callers have bounds of their own
            return Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise ValueError(f"the picture unpacks to too many pixels; at most {2 * MOST_PIXELS:,} are accepted") from None
    except Exception as error:
        raise ValueError(f"the picture cannot be opened: {_reason(error)}") from error


def _from_deep_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        levels = _scaled(values)
    elif image.mode == "I":
        levels = _narrowed(values)
    else:
        levels = to_levels(values)
    grey = Image.fromarray(np.ascontiguousarray(levels))
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # the one level, of all 16 bits, that is transparent
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _narrowed(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"its grey values go from {low} to {high}; 0 to 65535 are accepted")
    return (values if high <= 255 else values >> 8).astype(np.uint8)


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    top = next((top for top in (1.0, 255.0, 65535.0) if high <= top * 1.01), None)
    if top is None or not low >= -0.01 * top:
        raise ValueError(f"its grey values go from {low:g} to {high:g}; 0 to 1, 0 to 255 or 0 to 65535 are accepted")
    return to_levels(values / np.float32(top))


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab: Any = ImageCms.createProfile("LAB")
    rgb: Any = ImageCms.createProfile("sRGB")
    found = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    assert found is not None
    return found


def _with_alpha(image: Image.Image) -> Image.Image:
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:  # of 16 bits, as the file's colours were
        image = image.copy()
        image.info["transparency"] = tuple(level >> 8 for level in clear)
    return image.convert("RGBA")


def _reason(error: Exception) -> str:
    text = str(error)
    return "it is no picture file" if "cannot identify image file" in text else text or type(error).__name__
