"""Converts between ComfyUI's IMAGE and MASK tensors and image files, and reads and writes leanlens's settings in them.

Shapes: B pictures, H x W pixels; IMAGE is (B, H, W, 3) in 0..1, MASK (B, H, W) in 0..1 with 1 where to repaint.
"""

import io
import json
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, PngImagePlugin
from torch import Tensor

# IPTC's digital source type, as in leanlens's own files; `marking` of a record gives the value.
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{}"/>'
    '</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)
_MARKINGS = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")


def to_tensor(pictures: list[Image.Image]) -> Tensor:
    """Pictures of one size -> (B, H, W, 3)."""
    arrays = [np.asarray(picture.convert("RGB"), dtype=np.float32) / 255 for picture in pictures]
    return torch.from_numpy(np.stack(arrays))


def to_picture(image: Tensor, name: str = "image") -> Image.Image:
    """The image of an IMAGE with one entry.

    Raises:
        ValueError: it has several.
    """
    if image.shape[0] != 1:
        raise ValueError(f"{name} has {image.shape[0]} pictures: expected one")
    return Image.fromarray((image[0, ..., :3].cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def to_mask(mask: Tensor, size: tuple[int, int]) -> Image.Image:
    """The mask of a MASK as a grey image of `size` (width, height); white is repainted."""
    grey = Image.fromarray((mask.reshape(-1, *mask.shape[-2:])[0].cpu().clamp(0, 1) * 255).round().byte().numpy())
    return grey if grey.size == size else grey.resize(size, Image.Resampling.LANCZOS)


def png(picture: Image.Image) -> bytes:
    """An image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def with_hole(picture: Image.Image, mask: Image.Image) -> bytes:
    """A PNG that is transparent where `mask` is white, the form of masks in the OpenAI API."""
    transparent = picture.convert("RGBA")
    transparent.putalpha(mask.point(lambda level: 255 - level))
    return png(transparent)


def settings_of(picture: Image.Image, name: str) -> dict[str, Any]:
    """The settings that leanlens wrote into an image.

    Raises:
        ValueError: it has none.
    """
    text = picture.info.get("leanlens")
    if not text:
        described = str(picture.getexif().get(ExifTags.Base.ImageDescription, ""))
        text = described.removeprefix("leanlens:") if described.startswith("leanlens:") else _segments(picture)
    try:
        record = json.loads(text)
        record["request"], record["model"]["fingerprint"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{name} has no leanlens settings; only pictures saved by leanlens do") from None
    return record


def _segments(picture: Image.Image) -> str:
    """Settings too long for the EXIF of a JPEG, joined from its segments `leanlens:NUMBER/COUNT:`."""
    parts = {}
    for name, data in getattr(picture, "applist", ()):
        head, _, part = data.decode("ascii", "replace").removeprefix("leanlens:").partition(":")
        if name == "COM" and data.startswith(b"leanlens:") and head.partition("/")[0].isdecimal():
            parts[int(head.partition("/")[0])] = part
    return "".join(parts[number] for number in sorted(parts))


def notes_for(record: dict[str, Any], parameters: str, prompt: Any, workflow: Any) -> PngImagePlugin.PngInfo:
    """The metadata of a PNG: leanlens's settings and marking, A1111's text, and ComfyUI's graph."""
    notes = PngImagePlugin.PngInfo()
    if parameters:
        notes.add_text("parameters", parameters)
    notes.add_text("leanlens", json.dumps(record))
    if record.get("marking") in _MARKINGS:
        notes.add_itxt("XML:com.adobe.xmp", _PACKET.format(record["marking"]))
    if prompt:
        notes.add_text("prompt", json.dumps(prompt))
    for key, value in (workflow or {}).items():
        notes.add_text(key, json.dumps(value))
    return notes
