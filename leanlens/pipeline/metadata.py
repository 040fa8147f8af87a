"""Settings <-> picture files.

Comes in: a picture and the record of how it was drawn. Goes out: a PNG, JPEG or WebP file that carries the record, and
the record of such a file. Knows nothing of models.

Two forms are written: JSON under the name `leanlens` (PNG text; EXIF ImageDescription in JPEG and WebP), which
`leanlens replay` reads, and the `parameters` text of AUTOMATIC1111 (PNG text; EXIF UserComment), which galleries and
other programs read. Nothing in either depends on the clock, so the same drawing gives the same file.

Beside them stands an XMP packet that says what made the picture, in the words of IPTC's vocabulary Digital Source Type;
a record whose `marking` is None leaves it out.

Source: XMP specification part 3 (where PNG, JPEG and WebP keep the packet), IPTC Photo Metadata Standard 2023.1.
"""

import json
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from leanlens.files import parse_json, whole_file

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_JSON_MARK = "leanlens:"

DRAWN, EDITED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
MARKINGS = (DRAWN, EDITED)
"""What a picture may be marked as: drawn by a trained model, or a picture that one has altered."""
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{}"/>'
    '</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)


def save_picture(picture: Image.Image, path: str | Path, record: dict[str, Any], quality: int = 95) -> Path:
    """Write `picture` with `record` to `path`, whole or not at all; `quality` 0 to 100 counts for JPEG and WebP.

    Raises:
        ValueError: a suffix that is not .png, .jpg, .jpeg or .webp, a path that cannot be written, or a marking that
            is not one of `MARKINGS`.
    """
    path = Path(path)
    kind = picture_format(path)
    marking = xmp_packet(record.get("marking"))
    with whole_file(path) as temporary:
        if kind == "PNG":
            text = PngImagePlugin.PngInfo()
            text.add_text("parameters", parameters_text(record))
            text.add_text("leanlens", json.dumps(record, ensure_ascii=True))
            if marking is not None:
                text.add_itxt("XML:com.adobe.xmp", marking)
            picture.save(temporary, kind, pnginfo=text)
        else:
            xmp = {} if marking is None else {"xmp": marking.encode("utf-8")}
            picture.save(temporary, kind, quality=quality, exif=_exif(record), **xmp)
    return path


def xmp_packet(marking: str | None) -> str | None:
    """The XMP packet that marks a picture; None for one that is not marked.

    Raises:
        ValueError: a marking that is not one of `MARKINGS`.
    """
    if marking is not None and marking not in MARKINGS:
        raise ValueError(f"marking {marking!r} is not accepted; use {', '.join(MARKINGS)} or None")
    return None if marking is None else _PACKET.format(marking)


def picture_format(path: str | Path) -> str:
    """The format that the suffix of `path` asks for, or a ValueError with the accepted ones."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"cannot write {path}: the suffix {suffix!r} is not accepted; use one of {', '.join(FORMATS)}")
    return FORMATS[suffix]


def read_record(path: str | Path) -> dict[str, Any]:
    """The record that `save_picture` wrote.

    Raises:
        ValueError: not a picture, or one without a record.
    """
    try:
        with Image.open(path) as picture:
            text = picture.info.get("leanlens") or _record_in_exif(picture)
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture that can be read") from None
    if not text:
        raise ValueError(f"{path} carries no leanlens settings; only pictures that leanlens saved do")
    try:
        record = parse_json(text, "the JSON")
    except ValueError as error:
        raise ValueError(f"the leanlens settings in {path} are damaged: {error}") from None
    if not isinstance(record, dict) or "request" not in record:
        raise ValueError(f"the leanlens settings in {path} are not of a form this version knows")
    return record


def parameters_text(record: dict[str, Any]) -> str:
    """The record as the `parameters` text of AUTOMATIC1111: prompt, negative prompt, one line of settings."""
    request, model = record["request"], record["model"]
    settings = {
        "Steps": request["num_inference_steps"],
        "Sampler": "Euler",
        "Schedule type": "Lens",
        "CFG scale": request["guidance_scale"],
        "Seed": request["seed"],
        "Size": f"{request['width']}x{request['height']}",
        "Model hash": model["fingerprint"][:10],
        "Model": Path(model["name"]).name,
        "Denoising strength": request["strength"],
        "Latent resize": request.get("latent_resize"),
        "Stopped after": record.get("stopped_after") and f"{record['stopped_after']} steps",
        "Lora hashes": ", ".join(
            f"{Path(lora['path']).stem}: {digest[:12]}"
            for lora, digest in zip(request["loras"], record["inputs"]["loras"], strict=True)
        )
        or None,
        "Version": f"leanlens {record['leanlens']}",
    }
    lines = [request["prompt"]]
    if request["negative_prompt"].strip():
        lines.append(f"Negative prompt: {request['negative_prompt']}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items() if value is not None))
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if any(mark in text for mark in ",:\n") else text


def _exif(record: dict[str, Any]) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = _JSON_MARK + json.dumps(record, ensure_ascii=True)
    comment = b"UNICODE\0" + parameters_text(record).encode("utf-16-be")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return exif


def _record_in_exif(picture: Image.Image) -> str | None:
    text = str(picture.getexif().get(ExifTags.Base.ImageDescription, ""))
    return text.removeprefix(_JSON_MARK) if text.startswith(_JSON_MARK) else None
