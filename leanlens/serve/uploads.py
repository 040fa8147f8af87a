"""Images that clients send: decoded within the operator's limits. Only PNG, JPEG and WebP are accepted."""

import base64
import binascii
import io

from PIL import Image, ImageFilter, ImageOps

from leanlens.pictures.decode import brightness, has_orientation, read_picture
from leanlens.serve.errors import APIError
from leanlens.serve.settings import ServerSettings

FORMATS = ("PNG", "JPEG", "WEBP")  # no other format that Pillow knows


def open_upload(data: bytes, settings: ServerSettings, field: str = "image") -> Image.Image:
    """An uploaded image, decoded: L, LA, RGB or RGBA, 8-bit, upright.

    Raises:
        APIError: too many bytes or pixels, damaged, or neither PNG nor JPEG nor WebP.
    """
    if len(data) > settings.max_upload:
        raise APIError(
            "too_large", f"{field} has {len(data):,} bytes; at most {settings.max_upload:,} are accepted", field
        )

    def refuse_too_many(picture: Image.Image) -> None:
        pixels = picture.width * picture.height
        if pixels > settings.max_upload_pixels:  # known from the header, before anything is decoded
            raise APIError(
                "invalid", f"{field} has {pixels:,} pixels; at most {settings.max_upload_pixels:,} are accepted", field
            )

    try:
        return read_picture(data, FORMATS, refuse_too_many)
    except ValueError as error:
        raise APIError("invalid", f"{field} is not a readable PNG, JPEG or WebP image: {error}", field) from None


def upright_bytes(data: bytes) -> bytes | None:
    """The bytes of an upload to store; None where EXIF rotates the image, which `open_upload` has applied."""
    return None if has_orientation(data) else data


def from_base64(text: str, field: str = "image") -> bytes:
    """Bytes of base64 text or of a data URL.

    Raises:
        APIError: not base64.
    """
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise APIError("invalid", f"{field} is not base64", field) from None


def to_png(picture: Image.Image) -> bytes:
    """An image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def mask_from_transparency(mask: Image.Image) -> Image.Image:
    """A mask that marks with transparency -> a mask that marks with white.

    Raises:
        APIError: a mask without transparency.
    """
    if "A" not in mask.getbands() and "transparency" not in mask.info:
        raise APIError("invalid", "mask has no alpha channel; transparent marks what to repaint", "mask")
    return ImageOps.invert(mask.convert("RGBA").getchannel("A"))


def mask_from_brightness(mask: Image.Image, size: tuple[int, int], invert: bool, blur: float) -> Image.Image:
    """A mask that marks with white, resized to `size` (width, height), inverted or blurred on request.

    Transparent pixels are not marked.
    """
    grey = brightness(mask)
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.LANCZOS)
    if invert:
        grey = ImageOps.invert(grey)
    return grey.filter(ImageFilter.GaussianBlur(blur)) if blur > 0 else grey
