"""One decoder for all APIs: turned once, 8-bit, whatever the file says."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from leanlens.pictures.decode import (
    brightness,
    decode,
    eight_bit,
    has_orientation,
    measure,
    on_white,
    read_picture,
    suffix_of,
    to_levels,
    upright,
    upright_size,
)

# An upright picture, four colours that tell its corners apart, and what the array of pixels in the file looks like for
# each orientation: where the file's row 0 and column 0 lie in the picture as it is seen (EXIF 2.32, tag 0x0112).
SEEN = np.zeros((32, 48, 3), np.uint8)
SEEN[:16, :24], SEEN[:16, 24:], SEEN[16:, :24], SEEN[16:, 24:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
STORED = {
    1: SEEN,
    2: SEEN[:, ::-1],
    3: SEEN[::-1, ::-1],
    4: SEEN[::-1],
    5: SEEN.transpose(1, 0, 2),
    6: SEEN.transpose(1, 0, 2)[::-1],
    7: SEEN.transpose(1, 0, 2)[::-1, ::-1],
    8: SEEN.transpose(1, 0, 2)[:, ::-1],
}
SHORT, LONG, ASCII, RATIONAL = 3, 4, 2, 5


def tiff_head(order: str, *entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF bytes by hand: entries of (tag, type, count, the four bytes of the value)."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    rows = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + struct.pack(order + "H", len(entries)) + rows + struct.pack(order + "I", 0) + bytes(64)


def oriented(order: str, value: int) -> bytes:
    return tiff_head(order, (0x0112, SHORT, 1, struct.pack(order + "HH", value, 0)))


def saved(image: Image.Image, form: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    import zlib

    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_exif(array: np.ndarray, form: str, exif: bytes) -> bytes:
    """A picture file with EXIF bytes put in by hand, so that no writer tidies them."""
    image = Image.fromarray(np.ascontiguousarray(array))
    if form == "JPEG":
        data = saved(image, "JPEG", quality=100, subsampling=0)
        body = b"Exif\0\0" + exif
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    if form in ("PNG", "PNG, late"):
        data = saved(image)
        place = data.index(b"IDAT") - 4 if form == "PNG" else data.index(b"IEND") - 4
        return data[:place] + chunk(b"eXIf", exif) + data[place:]
    return saved(image, "WEBP", lossless=True, exif=exif)


def looks_like_seen(image: Image.Image) -> bool:
    wrong = np.abs(np.asarray(image.convert("RGB")).astype(int) - SEEN) if image.size == (48, 32) else np.array([255])
    return float(np.median(wrong)) <= 3 and wrong.mean() < 8


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "PNG, late", "WEBP"])
def test_every_orientation_is_turned_once(form, value, order):
    data = with_exif(STORED[value], form, oriented(order, value))
    found = read_picture(data)
    assert looks_like_seen(found)
    assert measure(data[:65536], lambda: data, lambda: data[-65536:]) == (32, 48)
    assert has_orientation(data) == (value != 1)
    assert looks_like_seen(upright(upright(Image.open(io.BytesIO(data)))))  # what was turned asks for nothing
    again = saved(found, exif=found.getexif())
    assert looks_like_seen(decode(again))
    assert not has_orientation(again)


@pytest.mark.parametrize("value", range(1, 9))
def test_every_orientation_of_a_tiff(value):
    exif = Image.Exif()
    exif[0x0112] = value
    data = saved(Image.fromarray(np.ascontiguousarray(STORED[value])), "TIFF", exif=exif)
    assert looks_like_seen(decode(data))
    assert measure(data, lambda: data) == (32, 48)
    opened = Image.open(io.BytesIO(data))
    assert upright_size(opened) == (32, 48)
    assert looks_like_seen(upright(opened))
    assert upright_size(opened) == (32, 48)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_xmp_turns_where_exif_is_silent(form):
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    image = Image.fromarray(np.ascontiguousarray(STORED[6]))
    if form == "PNG":
        data = saved(image)
        place = data.index(b"IDAT") - 4
        data = data[:place] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + data[place:]
    else:
        data = saved(image, form, xmp=xmp, quality=100)
    assert looks_like_seen(upright(read_picture(data)))
    assert measure(data, lambda: data) == (32, 48)


# X resolution as text, which cannot be written anew; the orientation beside it is right.
MISTYPED_NEIGHBOUR = tiff_head(
    "<", (0x0112, SHORT, 1, struct.pack("<HH", 6, 0)), (0x011A, ASCII, 4, b"abc\0"), (0x0128, ASCII, 2, b"x\0\0\0")
)
NOT_AN_ORIENTATION = {
    "text": tiff_head("<", (0x0112, ASCII, 2, b"6\0\0\0")),
    "fraction": tiff_head("<", (0x0112, RATIONAL, 1, struct.pack("<I", 26))),
    "zero": oriented("<", 0),
    "nine": oriented(">", 9),
    "huge": tiff_head(">", (0x0112, LONG, 1, b"\xff\xff\xff\xff")),
    "cut short": oriented("<", 6)[:15],
    "noise": b"II*\0" + bytes(range(200)),
    "nothing": b"",
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_mistyped_field_beside_it_does_not_stop_the_turn(form):
    data = with_exif(STORED[6], form, MISTYPED_NEIGHBOUR)
    assert looks_like_seen(decode(data))
    assert measure(data, lambda: data) == (32, 48)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", NOT_AN_ORIENTATION)
def test_what_is_no_orientation_turns_nothing(form, name):
    data = with_exif(SEEN, form, NOT_AN_ORIENTATION[name])
    assert looks_like_seen(decode(data))
    assert measure(data, lambda: data) == (32, 48)
    assert not has_orientation(data)


def test_a_large_png_with_a_late_tag_is_measured_by_its_end():
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    data = with_exif(noise, "PNG, late", oriented("<", 6))
    assert len(data) > 100_000
    asked = []
    assert measure(data[:65536], lambda: asked.append(1) or data, lambda: data[-65536:]) == (300, 200)
    plain = with_exif(noise, "PNG", oriented("<", 6))
    assert measure(plain[:65536], lambda: asked.append(2) or plain, lambda: plain[-65536:]) == (300, 200)
    assert asked == [1]  # only the late one is read whole


def test_the_pictures_own_warnings_are_kept_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert looks_like_seen(decode(with_exif(SEEN, "JPEG", oriented("<", 6)[:15])))


# ---- deeper levels ----

DEEP = np.array([[0, 32768, 65535]], np.uint16)


def tiff(array: np.ndarray, order: str = "<") -> bytes:
    """A grey TIFF by hand, one strip, of uint16, int32 or float32 in either byte order."""
    values = array.astype(array.dtype.newbyteorder(order)).tobytes()
    bits, kind = array.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    rows = {256: array.shape[1], 257: array.shape[0], 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: array.shape[0]}
    rows |= {279: len(values), 339: kind}
    body = struct.pack(order + "H", len(rows))
    for tag, value in rows.items():
        wide = tag in (273, 279)
        held = struct.pack(order + ("I" if wide else "HH"), *([value] if wide else [value, 0]))
        body += struct.pack(order + "HHI", tag, LONG if wide else SHORT, 1) + held
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HI", 42, 8 + len(values)) + values + body + bytes(4)


def pgm(array: np.ndarray) -> bytes:
    return b"P5 %d %d 65535\n" % array.shape[::-1] + array.astype(">u2").tobytes()


def png(array: np.ndarray, colour: int, *extra: bytes) -> bytes:
    """A 16-bit PNG by hand: colour 0 is grey, 2 RGB, 4 grey with alpha."""
    import zlib

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


GREY = {
    "png": png(DEEP, 0),
    "png, rgb": png(DEEP[..., None].repeat(3, 2), 2),
    "png, alpha": png(np.stack([DEEP, np.full_like(DEEP, 65535)], -1), 4),
    "tiff, little": tiff(DEEP),
    "tiff, big": tiff(DEEP, ">"),
    "tiff, int32": tiff(DEEP.astype(np.int32)),
    "tiff, float to 1": tiff((DEEP / 65535).astype(np.float32)),
    "tiff, float to 255": tiff((DEEP / 257).astype(np.float32), ">"),
    "tiff, float to 65535": tiff(DEEP.astype(np.float32)),
    "pgm": pgm(DEEP),
}


@pytest.mark.parametrize("name", GREY)
def test_mid_grey_stays_mid_grey_as_picture_and_as_mask(name):
    picture, mask = decode(GREY[name]), brightness(read_picture(GREY[name]))
    assert [pixel[0] for pixel in picture.get_flattened_data()] == pytest.approx([0, 128, 255], abs=1)
    assert list(mask.get_flattened_data()) == pytest.approx([0, 128, 255], abs=1)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_pictures_that_pillow_made_in_memory(mode):
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}[mode]
    image = Image.frombytes(mode, (3, 1), DEEP.astype(dtype).tobytes())
    assert list(eight_bit(image).get_flattened_data()) == pytest.approx([0, 128, 255], abs=1)
    assert on_white(image).mode == "RGB"


def test_grey_of_other_ranges():
    eight = Image.fromarray(np.array([[0, 128, 255]], np.int32))  # an ordinary mask that became integers on the way
    assert list(eight_bit(eight).get_flattened_data()) == [0, 128, 255]
    for array in (np.array([[-5, 3]], np.int32), np.array([[0, 70000]], np.int32), np.array([[0, np.nan]], np.float32)):
        with pytest.raises(ValueError, match="its grey values go from"):
            decode(tiff(array))


def test_one_transparent_level_of_sixteen_bits():
    clear = chunk(b"tRNS", struct.pack(">H", 32768))
    assert [pixel[0] for pixel in decode(png(DEEP, 0, clear)).get_flattened_data()] == [0, 255, 255]
    colours = np.array([[[65535, 0, 0], [0, 0, 65535]]], np.uint16)
    clear = chunk(b"tRNS", struct.pack(">HHH", 65535, 0, 0))
    assert list(decode(png(colours, 2, clear)).get_flattened_data()) == [(255, 255, 255), (0, 0, 255)]


def test_other_modes():
    assert [pixel[0] for pixel in decode(saved(Image.frombytes("1", (8, 1), b"\xf0"))).get_flattened_data()][3:5] == [
        255, 0,
    ]  # fmt: skip
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert list(decode(saved(palette)).get_flattened_data()) == [(10, 20, 30), (200, 100, 50)]
    assert list(decode(saved(palette, transparency=1)).get_flattened_data()) == [(10, 20, 30), (255, 255, 255)]
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert decode(saved(red, "JPEG", quality=100)).getpixel((8, 8)) == pytest.approx((255, 0, 0), abs=3)
    lab = Image.new("LAB", (2, 2), (138, 209, 195))  # L 54, a 81, b 67 with a and b as bytes from -128: red in sRGB
    found = decode(saved(lab, "TIFF")).getpixel((0, 0))
    assert found[0] > 240
    assert max(found[1:]) < 60


def test_a_mask_is_not_marked_where_it_is_transparent():
    mask = Image.new("RGBA", (2, 1), (255, 255, 255, 255))
    mask.putpixel((1, 0), (255, 255, 255, 0))
    assert list(brightness(mask).get_flattened_data()) == [255, 0]
    assert list(brightness(mask.convert("LA")).get_flattened_data()) == [255, 0]


def test_arrays_of_every_depth():
    assert to_levels(DEEP).tolist() == [[0, 128, 255]]
    assert to_levels(DEEP.astype(">u2")).tolist() == [[0, 128, 255]]
    assert to_levels(np.array([0.0, 0.5, 1.001])).tolist() == [0, 128, 255]
    assert to_levels(np.array([False, True])).tolist() == [0, 255]
    for array in (np.array([0.0, 255.0]), np.array([-1.0, 1.0]), np.array([np.nan]), np.array([1, 2], np.int64)):
        with pytest.raises(ValueError, match=r"^invalid mask (with values from|of dtype int64).*expected"):
            to_levels(array, "mask")


# ---- files ----


def test_no_other_program_is_started_by_a_file():
    with pytest.raises(ValueError, match="it is not an image file"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n10 setlinewidth\n%%EOF\n")


def test_a_photo_of_two_pictures_is_a_jpeg():
    first, second = Image.new("RGB", (48, 32), "red"), Image.new("RGB", (24, 16))
    data = saved(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert suffix_of(data) == "jpg"
    assert decode(data).size == (48, 32)
    assert read_picture(data, ("PNG", "JPEG", "WEBP")).size == (48, 32)


def test_suffixes_of_what_is_read():
    image = Image.fromarray(SEEN)
    forms = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "avif": "AVIF"}
    assert {suffix: suffix_of(saved(image, form)) for suffix, form in forms.items()} == {
        suffix: suffix for suffix in forms
    }
