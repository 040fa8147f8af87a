"""Writes settings into image files, and reads them back.

Two forms are written: JSON under the name `leanlens` (PNG text; EXIF ImageDescription in JPEG and WebP), which
`leanlens replay` reads, and the `parameters` text of AUTOMATIC1111 (PNG text; EXIF UserComment), which galleries and
other programs read. Neither depends on the clock, so the same image always gives the same file.

All EXIF of a JPEG must fit into 64 KB. If it does not, the text is shortened and says so; JSON that is too long by
itself is written whole into comment segments (COM), each `leanlens:NUMBER/COUNT:` and a part.

An XMP packet says what made the image, in the terms of IPTC's vocabulary Digital Source Type; it is left out if the
record's `marking` is None.

Source: EXIF 2.32, 4.6.5 (UserComment: a character code of 8 bytes, then text); XMP specification part 3 (where PNG,
JPEG and WebP keep the packet); IPTC Photo Metadata Standard 2023.1.
"""

import json
import re
import struct
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from leanlens.files import parse_json, whole_file
from leanlens.pictures.decode import read_exif

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_JSON_MARK = "leanlens:"
_EXIF_MARK = b"Exif\0\0"
_SEGMENT = 65_533  # bytes that one segment of a JPEG holds
_PART = 60_000
_ELSEWHERE = "The leanlens settings stand in this file's comments."
_LEAST_TEXT = 2_000  # bytes that the text keeps beside JSON
ORIGINAL = "Original prompt"  # what a person wrote, in the text of AUTOMATIC1111

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
    """Write `picture` with `record` to `path` atomically; `quality`, 0 to 100, applies to JPEG and WebP.

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
            options = _jpeg_settings(record) if kind == "JPEG" else {"exif": _exif(record)}
            picture.save(temporary, kind, quality=quality, **options, **xmp)
    return path


def xmp_packet(marking: str | None) -> str | None:
    """The XMP packet that marks an image as made by a model, or None.

    Raises:
        ValueError: a marking that is not one of `MARKINGS`.
    """
    if marking is not None and marking not in MARKINGS:
        raise ValueError(f"invalid marking {marking!r}: expected one of {', '.join(MARKINGS)}, or None")
    return None if marking is None else _PACKET.format(marking)


def picture_format(path: str | Path) -> str:
    """The image format of a path's suffix, or a ValueError that lists the suffixes."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"cannot write {path}: invalid suffix {suffix!r}: expected one of {', '.join(FORMATS)}")
    return FORMATS[suffix]


def read_record(path: str | Path) -> dict[str, Any]:
    """The record that `save_picture` wrote.

    Raises:
        ValueError: the file is not an image, or has no record.
    """
    try:
        with Image.open(path) as picture:
            text = picture.info.get("leanlens") or _record_in_exif(picture)
    except Exception as error:  # Pillow's readers raise a dozen classes for damaged files
        if isinstance(error, OSError) and error.errno is not None:  # there is no such file, or it may not be read
            raise
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
        **reasoner_settings(request),
        "Version": f"leanlens {record['leanlens']}",
    }
    lines = [request["prompt"]]
    if request["negative_prompt"].strip():
        lines.append(f"Negative prompt: {request['negative_prompt']}")
    lines.append(", ".join(f"{key}: {_quoted(value, key)}" for key, value in settings.items() if value is not None))
    return "\n".join(lines)


def reasoner_settings(request: dict[str, Any]) -> dict[str, str]:
    """The original prompt and the reasoner that rewrote it, by names of that text; nothing for other prompts."""
    record = request.get("reasoner")
    if not record or record["prompt"] == record["original"]:
        return {}
    return {ORIGINAL: record["original"], "Reasoner": record["source"]}


def _quoted(value: Any, key: str) -> str:
    text = str(value)
    if key == ORIGINAL:  # for people, so its letters stay as they are
        return json.dumps(text, ensure_ascii=False)
    return json.dumps(text) if any(mark in text for mark in ",:\n") else text


def read_comment(picture: Image.Image) -> str:
    """The text in a picture's EXIF UserComment, in any of the character codes and byte orders that programs write.

    Empty where there is none.
    """
    value = read_exif(picture, ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, "")
    if isinstance(value, str):
        value = value.encode("latin-1", "replace")  # as Pillow has read it
    if not isinstance(value, bytes):
        return ""
    code, text = value[:8], value[8:]
    if code == b"UNICODE\0":
        return _from_utf16(text, picture.info.get("exif", b""))
    if code == b"JIS\0\0\0\0\0":
        return _decoded(text, "iso2022_jp", "shift_jis")
    if code in (b"ASCII\0\0\0", bytes(8)):
        return _decoded(text, "utf-8", "latin-1")
    return _decoded(value, "utf-8", "latin-1")


def _from_utf16(text: bytes, exif: bytes) -> str:
    """Text after UNICODE, in which some programs write UTF-8; ASCII letters tell the byte order, else EXIF's own."""
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return text.decode("utf-16", "replace").strip("\0 ")
    high, low = text[0::2].count(0), text[1::2].count(0)
    if not high and not low:
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            pass
    big = high > low if high != low else not exif.removeprefix(_EXIF_MARK).startswith(b"II")
    return text.decode("utf-16-be" if big else "utf-16-le", "replace").strip("\0 ")


def _decoded(text: bytes, *encodings: str) -> str:
    for encoding in encodings:
        try:
            return text.decode(encoding).strip("\0 ")
        except UnicodeDecodeError:
            continue
    return text.decode("utf-8", "replace").strip("\0 ")


def _jpeg_settings(record: dict[str, Any]) -> dict[str, bytes]:
    """What Pillow's JPEG writer takes: EXIF, and where JSON does not fit into it, segments of JSON."""
    described = json.dumps(record, ensure_ascii=True)
    frame = len(_exif_bytes(_JSON_MARK, b""))
    room = _SEGMENT - frame - len(described)
    if room >= _LEAST_TEXT:
        return {"exif": _exif(record, room)}
    parts = [described[start : start + _PART] for start in range(0, len(described), _PART)]
    bodies = [f"{_JSON_MARK}{number}/{len(parts)}:{part}".encode() for number, part in enumerate(parts, 1)]
    segments = b"".join(b"\xff\xfe" + struct.pack(">H", len(body) + 2) + body for body in bodies)
    comment = _comment(record, _SEGMENT - frame - len(_ELSEWHERE))
    return {"exif": _exif_bytes(_ELSEWHERE, comment), "extra": segments}


def _exif(record: dict[str, Any], most: int | None = None) -> bytes:
    return _exif_bytes(_JSON_MARK + json.dumps(record, ensure_ascii=True), _comment(record, most))


def _comment(record: dict[str, Any], most: int | None) -> bytes:
    """UserComment of at most `most` bytes, as AUTOMATIC1111 writes and reads it."""
    text = parameters_text(record)
    if most is not None and _utf16_bytes(text) > most - 8:
        text = _shortened(record, most - 8)
    return b"UNICODE\0" + text.encode("utf-16-be", "replace")


def _shortened(record: dict[str, Any], most: int) -> str:
    """The `parameters` text of at most `most` bytes in UTF-16: prompts are cut, settings are not."""
    request = record["request"]
    reasoner = request["reasoner"] if reasoner_settings(request) else {}

    def text_with(prompt: str, negative: str, original: str) -> str:
        told = {"reasoner": {**reasoner, "original": original}} if reasoner else {}
        short = {**request, "prompt": prompt, "negative_prompt": negative, **told}
        return parameters_text({**record, "request": short}) + note

    note = ", Shortened: the leanlens settings hold the whole prompt"
    room = max(0, most - _utf16_bytes(text_with("", "n", "o")) - 16)
    original = _cut(reasoner.get("original", ""), room // 4)
    while _utf16_bytes(_quoted(original, ORIGINAL)) > room // 4 and len(original) > 1:
        original = _cut(original, _utf16_bytes(original) // 2)
    negative = _cut(request["negative_prompt"], room // 4)
    prompt = _cut(request["prompt"], room - _utf16_bytes(negative) - _utf16_bytes(_quoted(original, ORIGINAL)))
    text = text_with(prompt, negative, original)
    return text if _utf16_bytes(text) <= most else _cut(text, most)


def _cut(text: str, most: int) -> str:
    if _utf16_bytes(text) <= most:
        return text
    kept = text.encode("utf-16-be", "replace")[: max(0, most - 2) // 2 * 2]
    return kept.decode("utf-16-be", "ignore") + "…"


def _utf16_bytes(text: str) -> int:
    return len(text.encode("utf-16-be", "replace"))


def _exif_bytes(description: str, comment: bytes) -> bytes:
    """EXIF with an ImageDescription and a UserComment of type UNDEFINED, which Pillow would write as BYTE.

    Both are longer than the 4 bytes that a table holds itself.
    """
    ascii_, long, undefined = 2, 4, 7
    words = description.encode("ascii") + b"\0"
    length, padding = len(words), len(words) % 2
    tables = 8 + 2 + 2 * 12 + 4  # where the second table begins
    values = tables + 2 + 12 + 4
    first = struct.pack(">H", 2) + struct.pack(">HHII", ExifTags.Base.ImageDescription, ascii_, length, values)
    first += struct.pack(">HHII", ExifTags.IFD.Exif, long, 1, tables) + bytes(4)
    second = struct.pack(">H", 1)
    second += struct.pack(">HHII", ExifTags.Base.UserComment, undefined, len(comment), values + length + padding)
    return _EXIF_MARK + b"MM" + struct.pack(">HI", 42, 8) + first + second + bytes(4) + words + bytes(padding) + comment


def _record_in_exif(picture: Image.Image) -> str | None:
    text = str(read_exif(picture).get(ExifTags.Base.ImageDescription, ""))
    return text.removeprefix(_JSON_MARK) if text.startswith(_JSON_MARK) else _record_in_segments(picture)


def _record_in_segments(picture: Image.Image) -> str | None:
    parts: dict[int, str] = {}
    for name, data in getattr(picture, "applist", ()):
        match = re.match(rb"leanlens:(\d{1,4})/(\d{1,4}):", data) if name == "COM" else None
        if match:
            parts[int(match[1])] = data[match.end() :].decode("ascii", "replace")
    return "".join(parts[number] for number in sorted(parts)) or None
