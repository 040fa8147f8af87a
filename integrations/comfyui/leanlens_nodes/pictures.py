"""ComfyUI's pictures <-> files with settings inside.

Comes in: IMAGE and MASK tensors, or bytes of a file. Goes out: the other, and the settings that leanlens wrote.

Shapes: B pictures, H x W pixels; IMAGE is (B, H, W, 3) in 0..1, MASK (B, H, W) in 0..1 with 1 where to repaint.
"""

import io
import json
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, PngImagePlugin
from torch import Tensor

# IPTC's word for what made a picture, as leanlens writes it into its own files; `marking` of a record says which.
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
    """The one picture of an IMAGE.

    Raises:
        ValueError: several.
    """
    if image.shape[0] != 1:
        raise ValueError(f"{name} holds {image.shape[0]} pictures; one is accepted")
    return Image.fromarray((image[0, ..., :3].cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def to_mask(mask: Tensor, size: tuple[int, int]) -> Image.Image:
    """The one mask of a MASK as a grey picture of `size` (width, height), white where to repaint."""
    grey = Image.fromarray((mask.reshape(-1, *mask.shape[-2:])[0].cpu().clamp(0, 1) * 255).round().byte().numpy())
    return grey if grey.size == size else grey.resize(size, Image.Resampling.LANCZOS)


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def with_hole(picture: Image.Image, mask: Image.Image) -> bytes:
    """A PNG that is transparent where `mask` is white, which is how the OpenAI API takes masks."""
    transparent = picture.convert("RGBA")
    transparent.putalpha(mask.point(lambda level: 255 - level))
    return png(transparent)


def settings_of(picture: Image.Image, name: str) -> dict[str, Any]:
    """What leanlens wrote into a picture when it drew it.

    Raises:
        ValueError: nothing of leanlens in it.
    """
    text = picture.info.get("leanlens")
    if not text:
        described = str(picture.getexif().get(ExifTags.Base.ImageDescription, ""))
        text = described.removeprefix("leanlens:") if described.startswith("leanlens:") else _segments(picture)
    try:
        record = json.loads(text)
        record["request"], record["model"]["fingerprint"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{name} carries no leanlens settings; only pictures that leanlens saved do") from None
    return record


def _segments(picture: Image.Image) -> str:
    """Settings too long for the EXIF of a JPEG, which leanlens writes into segments `leanlens:NUMBER/COUNT:`."""
    parts = {}
    for name, data in getattr(picture, "applist", ()):
        head, _, part = data.decode("ascii", "replace").removeprefix("leanlens:").partition(":")
        if name == "COM" and data.startswith(b"leanlens:") and head.partition("/")[0].isdecimal():
            parts[int(head.partition("/")[0])] = part
    return "".join(parts[number] for number in sorted(parts))


def notes_for(record: dict[str, Any], parameters: str, prompt: Any, workflow: Any) -> PngImagePlugin.PngInfo:
    """What is written into a PNG: leanlens's settings and marking, A1111's text, and ComfyUI's graph."""
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
