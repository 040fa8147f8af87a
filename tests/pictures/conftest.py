"""Pictures and foreign containers, written with Pillow, tarfile and pyarrow alone."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(height: int = 40, width: int = 60, seed: int = 0, form: str = "JPEG", **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, form, **options)
    return data.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def foreign_tar(tmp_path):
    """Ten records as other tools write them: numbered keys, a .txt and a .json that also says other things."""
    members = []
    for number in range(10):
        members.append((f"{number:05d}.jpg", picture(seed=number)))
        members.append((f"{number:05d}.txt", f"words {number}".encode()))
        members.append(
            (f"{number:05d}.json", json.dumps({"url": "x", "caption": None, "dense": f"long {number}"}).encode())
        )
    return write_tar(tmp_path / "data" / "00000.tar", members)
