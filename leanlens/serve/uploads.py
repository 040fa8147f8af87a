"""Pictures that clients send: checked, and kept as files that a request can name.

Comes in: bytes. Goes out: PIL pictures within the operator's bounds, and paths in the archive. Nothing of what a client
calls its file is used.
"""

import base64
import binascii
import io
import warnings

from PIL import Image, ImageChops, ImageFilter, ImageOps, UnidentifiedImageError

from leanlens.serve.refusal import Refusal
from leanlens.serve.settings import ServerSettings

# What is opened, and the suffix it is kept under. Everything else that Pillow knows stays closed.
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


def open_upload(data: bytes, settings: ServerSettings, field: str = "image") -> Image.Image:
    """An uploaded picture, unpacked.

    Raises:
        Refusal: too many bytes or pixels, damaged, or neither PNG nor JPEG nor WebP.
    """
    if len(data) > settings.max_upload:
        raise Refusal(
            "too_large", f"{field} has {len(data):,} bytes; at most {settings.max_upload:,} are accepted", field
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound comes first
            picture = Image.open(io.BytesIO(data), formats=tuple(_SUFFIXES))
        pixels = picture.width * picture.height
        if pixels > settings.max_upload_pixels:  # known from the header, before anything is unpacked
            raise Refusal(
                "invalid", f"{field} has {pixels:,} pixels; at most {settings.max_upload_pixels:,} are accepted", field
            )
        picture.load()
    except Refusal:
        raise
    except UnidentifiedImageError:
        raise Refusal("invalid", f"{field} is no PNG, JPEG or WebP picture that can be read", field) from None
    except Exception as error:  # Pillow's decoders raise a dozen classes for damaged files
        raise Refusal("invalid", f"{field} cannot be read: {type(error).__name__}", field) from None
    return picture


def suffix_of(picture: Image.Image) -> str:
    """The suffix of the format that a picture was read from."""
    return _SUFFIXES[picture.format or "PNG"]


def from_base64(text: str, field: str = "image") -> bytes:
    """Bytes of base64 text, with or without a data address before it.

    Raises:
        Refusal: no base64.
    """
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal("invalid", f"{field} is no base64 text", field) from None


def to_png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def mask_from_transparency(mask: Image.Image) -> Image.Image:
    """A mask in which transparent means repaint -> one in which white does.

    Raises:
        Refusal: a mask without transparency.
    """
    if "A" not in mask.getbands() and "transparency" not in mask.info:
        raise Refusal("invalid", "mask has no alpha channel; transparent marks what to repaint", "mask")
    return ImageOps.invert(mask.convert("RGBA").getchannel("A"))


def mask_from_brightness(mask: Image.Image, size: tuple[int, int], invert: bool, blur: float) -> Image.Image:
    """A mask in which white means repaint, brought to `size` (width, height), inverted or blurred where asked."""
    if "A" in mask.getbands():  # what is transparent is not marked
        grey = ImageChops.multiply(mask.convert("L"), mask.getchannel("A"))
    else:
        grey = mask.convert("L")
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.LANCZOS)
    if invert:
        grey = ImageOps.invert(grey)
    return grey.filter(ImageFilter.GaussianBlur(blur)) if blur > 0 else grey
