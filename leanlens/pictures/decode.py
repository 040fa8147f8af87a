"""Decodes image files to their size or to upright 8-bit pixels; every API, command and training run uses this decoder.

The EXIF or XMP orientation is applied and its tag removed. Higher bit depths become 8-bit, and an animation gives its
first frame. An unreadable file is a ValueError with the reason, so that a dataset can skip it.

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
"""Image formats that are not supported; a dataset reports files of these kinds."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "PCX", "TGA")
"""The formats that Pillow may open; none of them starts another program, as EPS does."""
MAX_PIXELS = 89_478_485  # Pillow's limit for safe images; it opens up to twice as many
HEAD_BYTES = 64 * 1024  # contains the size of nearly every JPEG and PNG
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
_TURNING = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # where `Image.info` may state an orientation
_PNG = b"\x89PNG\r\n\x1a\n"
_warnings_lock = Lock()  # warning filters are global to the process, so one thread at a time may change them


def measure(head: bytes, whole: Callable[[], bytes], tail: Callable[[], bytes] | None = None) -> tuple[int, int]:
    """(height, width) in pixels, after applying the orientation, from the first `HEAD_BYTES` bytes if possible.

    Args:
        head: the first bytes, or all.
        whole: called for all bytes if the first ones do not suffice.
        tail: called for the last `HEAD_BYTES` bytes of a PNG, which may have its orientation after the pixels.

    Raises:
        ValueError: not a readable image; the message gives the reason.
    """
    try:
        if tail is not None and len(head) >= HEAD_BYTES and head.startswith(_PNG) and _orientation_may_follow(tail()):
            raise ValueError("its orientation may be stored after the pixels")
        return upright_size(_header(head))
    except ValueError:
        return upright_size(_header(whole()))


def decode(data: bytes) -> Image.Image:
    """The image as upright 8-bit RGB, composited on white if it is transparent.

    Raises:
        ValueError: it is unreadable or truncated; the message gives the reason.
    """
    return on_white(read_picture(data))


def read_picture(
    source: bytes | str | Path,
    formats: tuple[str, ...] = FORMATS,
    check: Callable[[Image.Image], None] | None = None,
) -> Image.Image:
    """An image of any format as upright 8-bit L, LA, RGB or RGBA.

    Args:
        source: the file's bytes, or its path.
        formats: Pillow's names of the accepted formats.
        check: called with the image after only its header was read; its exceptions propagate.

    Raises:
        ValueError: it is unreadable or truncated; the message gives the reason.
        OSError: there is no such file.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    image = _opened(data, formats)
    if check is not None:
        check(image)
    try:
        image.load()
        return eight_bit(upright(image))
    except Exception as error:  # decoders raise any exception on damaged files
        raise ValueError(f"the picture cannot be decoded: {_reason(error)}") from error


def has_orientation(data: bytes) -> bool:
    """Whether an image file has an orientation other than upright; False if it is unreadable."""
    try:
        return orientation(_header(data)) != 1
    except ValueError:
        return False


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if the tag is missing or not an integer.

    For a PNG that is opened but not loaded, only the chunks before the pixels are read.
    """
    value = read_exif(image).get(_ORIENTATION, 1)
    return value if type(value) is int and value in _TURNS else 1


def read_exif(image: Image.Image, group: int | None = None) -> dict[int, Any]:
    """The EXIF fields of an image by tag, from its first table or a `group`; empty if they are damaged."""
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Not `image.getexif`: for a PNG it decodes all pixels to read the chunks after them.
            exif = Image.Image.getexif(image)
            return dict(exif) if group is None else dict(exif.get_ifd(group))
    except Exception:  # Pillow raises a dozen classes here
        return {}


def upright(image: Image.Image) -> Image.Image:
    """Apply the orientation and remove its tag, so that it is not applied twice.

    All of EXIF is removed rather than rewritten, because Pillow cannot write back a malformed field.
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
    """(height, width) in pixels of the result of `upright`."""
    sideways = orientation(image) in _SIDEWAYS and image.format != "TIFF"  # Pillow already rotates the size of a TIFF
    return (image.width, image.height) if sideways else (image.height, image.width)


def eight_bit(image: Image.Image) -> Image.Image:
    """An image of any mode as L, LA, RGB or RGBA.

    16-bit grey keeps its upper 8 bits. Grey in 32-bit integers (mode I) is read as 8-bit if no value is above 255,
    otherwise as 16-bit; grey in floats (F) as 0 to 1, 0 to 255 or 0 to 65535, depending on its largest value.

    Raises:
        ValueError: integers or floats outside these ranges, or a mode that Pillow cannot convert.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_grey(image)
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        return image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if image.mode == "PA" or "transparency" in image.info:
        return _with_alpha(image)
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def on_white(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, composited on white."""
    image = eight_bit(image)
    if image.mode in ("RGBA", "LA"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def brightness(image: Image.Image) -> Image.Image:
    """A mask of any mode as L: white where it is set; transparent pixels are not set."""
    image = eight_bit(image)
    grey = image.convert("L")
    return ImageChops.multiply(grey, image.getchannel("A")) if image.mode in ("RGBA", "LA") else grey


def to_levels(values: np.ndarray, what: str = "image") -> np.ndarray:
    """An array as uint8: uint8 unchanged, uint16 by its upper 8 bits, bool as 0 and 255, floats in 0..1 scaled.

    Raises:
        ValueError: another dtype, or floats outside 0..1 by more than 0.01.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    if values.dtype.kind != "f":
        raise ValueError(f"invalid {what} of dtype {values.dtype}: expected uint8, uint16, bool or floats in 0..1")
    require_unit(float(values.min()), float(values.max()), what)
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def require_unit(low: float, high: float, what: str) -> None:
    """Raise a ValueError unless values from `low` to `high` are in 0..1, with a tolerance of 0.01."""
    if not (low >= -0.01 and high <= 1.01):  # false for NaN, too
        raise ValueError(f"invalid {what} with values from {low:g} to {high:g}: expected floats in 0..1")


def suffix_of(data: bytes) -> str:
    """The file suffix for an image's first bytes: "jpg", "png", "webp", "gif", "bmp", "tif", "avif" or "jp2".

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
    """Open an image, and decode it if its orientation is stored after the pixels."""
    image = _opened(data)
    if image.format == "PNG" and _orientation_may_follow(data[-HEAD_BYTES:]):
        try:
            image.load()
        except Exception as error:
            raise ValueError(f"the picture cannot be decoded: {_reason(error)}") from error
    return image


def _orientation_may_follow(end: bytes) -> bool:
    """Whether the last bytes of a PNG contain metadata after the pixels that may state an orientation."""
    behind = end[end.rfind(b"IDAT") + 1 :]
    return any(mark in behind for mark in (b"eXIf", b"tiff:Orientation", b"Raw profile type exif"))


def _opened(data: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF and large images: callers check sizes themselves
            return Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        raise ValueError(f"the picture is too large: the limit is {2 * MAX_PIXELS:,} pixels") from None
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
    if isinstance(clear, int):  # the 16-bit grey level that is transparent
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _narrowed(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"its grey values go from {low} to {high}; expected 0 to 65535")
    return (values if high <= 255 else values >> 8).astype(np.uint8)


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    top = next((top for top in (1.0, 255.0, 65535.0) if high <= top * 1.01), None)
    if top is None or not low >= -0.01 * top:
        raise ValueError(f"its grey values go from {low:g} to {high:g}; expected 0 to 1, 0 to 255 or 0 to 65535")
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
    if isinstance(clear, tuple) and max(clear) > 255:  # 16-bit values, like the colours of the file
        image = image.copy()
        image.info["transparency"] = tuple(level >> 8 for level in clear)
    return image.convert("RGBA")


def _reason(error: Exception) -> str:
    text = str(error)
    return "it is not an image file" if "cannot identify image file" in text else text or type(error).__name__
