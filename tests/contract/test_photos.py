"""One photo at every API: turned as its EXIF asks, 16-bit grey as grey, and the mask where the person put it.

`/mcp` is none of these APIs: it starts from pictures that the server drew, and takes no files.
"""

import base64
import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from leanlens.pipeline.metadata import read_record

WIDTH, HEIGHT = 96, 64
STEPS = {"steps": 3, "seed": 1}
# What a person sees: four colours, one in each corner.
SEEN = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
SEEN[:32, :48], SEEN[:32, 48:], SEEN[32:, :48], SEEN[32:, 48:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
PAINT, KEEP = (slice(None), slice(0, 48)), (slice(None), slice(48, None))  # the mask's left half is repainted


def phone_photo() -> tuple[bytes, np.ndarray]:
    """A JPEG lying on its side with EXIF orientation 6 (row 0 is at the right), and its pixels upright."""
    side = Image.fromarray(np.ascontiguousarray(SEEN.transpose(1, 0, 2)[::-1]))
    data = io.BytesIO()
    side.save(data, "JPEG", quality=95, subsampling=0)
    exif = b"Exif\0\0MM" + struct.pack(">HIH", 42, 8, 1) + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)
    raw = data.getvalue()
    turned = raw[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + raw[2:]
    return turned, np.asarray(Image.open(io.BytesIO(raw)))[::-1].transpose(1, 0, 2)


def deep_png(levels: np.ndarray) -> bytes:
    """A PNG of 16 bits by hand: (H, W) grey, or (H, W, 2) grey and alpha."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    colour = 0 if levels.ndim == 2 else 4
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    head = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_mask(transparent: bool = False) -> bytes:
    """White on the left, black on the right; or see-through on the left, as OpenAI's clients mark it."""
    levels = np.zeros((HEIGHT, WIDTH), np.uint16)
    levels[PAINT] = 65535
    return deep_png(np.stack([np.full_like(levels, 32768), 65535 - levels], axis=-1) if transparent else levels)


def deep_grey() -> tuple[bytes, np.ndarray]:
    """Three greys that 8 bits show as 32, 128 and 200; cut off at 255 they would all be white."""
    levels = np.full((HEIGHT, WIDTH), 32 * 257, np.uint16)
    levels[:, 60:] = 32768
    levels[:20] = 200 * 257
    seen = np.full((HEIGHT, WIDTH), 32)
    seen[:, 60:], seen[:20] = 128, 200
    return deep_png(levels), np.repeat(seen[..., None], 3, axis=-1)


def in_base64(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def by_command(picture, tmp_path, monkeypatch, **_):
    import sys

    from leanlens.cli.main import run

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".settings"))
    (tmp_path / "photo").write_bytes(picture)  # the bytes say what it is, not the name
    (tmp_path / "mask.png").write_bytes(deep_mask())
    words = "generate a --model toy --dtype float32 --steps 3 --seed 1 --image photo --mask mask.png -o out.png"
    monkeypatch.setattr(sys, "argv", ["leanlens", *words.split()])
    with pytest.raises(SystemExit) as stop:
        run()
    assert not stop.value.code
    return (tmp_path / "out.png").read_bytes()


def by_pipeline(picture, **_):
    import torch

    from leanlens.pipeline.toy import toy_pipeline
    from leanlens.pipeline.variants import LensInpaintPipeline

    pipeline = LensInpaintPipeline(**toy_pipeline().components)
    with Image.open(io.BytesIO(picture)) as image, Image.open(io.BytesIO(deep_mask())) as mask:
        drawn = pipeline(
            "a", image=image, mask_image=mask, strength=1.0, num_inference_steps=3,
            generator=torch.Generator().manual_seed(1),
        ).images[0]  # fmt: skip
    data = io.BytesIO()
    drawn.save(data, "PNG")
    return data.getvalue()


def by_edits(picture, server, **_):
    files = {"image": ("IMG_1.HEIC", picture), "mask": ("m.png", deep_mask(transparent=True))}
    return answered(server().post("/v1/images/edits", data={"prompt": "a", **STEPS}, files=files))


def by_edits_in_json(picture, server, **_):
    body = {
        "prompt": "a", "images": [{"image_url": in_base64(picture)}],
        "mask": {"image_url": in_base64(deep_mask(transparent=True))}, **STEPS,
    }  # fmt: skip
    return answered(server().post("/v1/images/edits", json=body))


def answered(answer) -> bytes:
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def by_sdapi(picture, server, **_):
    body = {"prompt": "a", "init_images": [in_base64(picture, "image/jpeg")], "mask": in_base64(deep_mask()),
            "denoising_strength": 1.0, **STEPS}  # fmt: skip
    answer = server().post("/sdapi/v1/img2img", json=body)
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["images"][0])


def by_page(picture, service, **_):
    pytest.importorskip("gradio")
    from leanlens.web.form import Form, parameters_from
    from leanlens.web.source import source_reader

    paint = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    paint[PAINT] = (255, 255, 255, 255)
    layer = io.BytesIO()
    Image.fromarray(paint).save(layer, "PNG")
    opened = service()
    form = Form(prompt="a", steps=3, seed="1", strength="1")
    job = opened.prepare(
        parameters_from(form, opened, source_reader((picture, [layer.getvalue()]), opened)), "ann", "page"
    )

    done = threading.Event()
    job.listen(lambda event: event.kind == "done" and done.set())
    opened.start(job)
    assert done.wait(60)
    (task,) = job.tasks
    return task.picture.path.read_bytes()


APIS = {"command": by_command, "pipeline": by_pipeline, "edits": by_edits, "edits in JSON": by_edits_in_json,
         "sdapi": by_sdapi, "page": by_page}  # fmt: skip


@pytest.mark.parametrize("photo", [phone_photo, deep_grey], ids=["phone", "16-bit grey"])
@pytest.mark.parametrize("api", APIS)
def test_a_photo_is_kept_upright_where_the_mask_says(api, photo, server, service, tmp_path, monkeypatch):
    picture, seen = photo()
    data = APIS[api](picture, server=server, service=service, tmp_path=tmp_path, monkeypatch=monkeypatch)
    drawn = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int)
    assert drawn.shape == (HEIGHT, WIDTH, 3)
    assert (np.abs(drawn[KEEP] - seen[KEEP]) <= 1).all()
    assert (np.abs(drawn[PAINT] - seen[PAINT]) > 30).any()
    if api != "pipeline":  # what is kept of the upload is what was drawn from
        (tmp_path / "drawn.png").write_bytes(data)
        kept = (tmp_path / read_record(tmp_path / "drawn.png")["request"]["image"]).resolve()
        from leanlens.pipeline.image import open_picture

        assert (np.abs(np.asarray(open_picture(kept).convert("RGB"), dtype=int) - seen) <= 1).all()
