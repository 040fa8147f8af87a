"""A folder of pictures of many sizes with two captions each, and a toy pipeline's frozen parts."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from leanlens.batches.assign import batch_sizes
from leanlens.batches.stream import Stream
from leanlens.pictures.sources import open_source

TABLE = {32: ((32, 32), (16, 48), (48, 16)), 64: ((64, 64), (48, 80))}
SIZES = [(32, 32), (20, 60), (64, 64), (96, 96), (50, 80), (60, 20), (40, 36)]


def write_picture(path, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    path.write_bytes(data.getvalue())


def write_folder(folder, count=40):
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        write_picture(folder / f"{n:03d}.png", *SIZES[n % len(SIZES)], seed=n)
        captions = {"brief": f"brief {n}", "dense": f"dense words for number {n}"}
        (folder / f"{n:03d}.json").write_text(json.dumps(captions))
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("pictures") / "all")


@pytest.fixture(scope="session")
def make_stream(folder):
    """A stream over the folder, or over another one, with settings."""

    def make(path=folder, **settings):
        table = settings.pop("table", TABLE)
        return Stream(open_source(path), table, batch_sizes(table, 4), **{"seed": 7, **settings})

    return make


@pytest.fixture(scope="session")
def toy():
    from leanlens.pipeline.toy import toy_pipeline

    return toy_pipeline(0)


@pytest.fixture(scope="session")
def resident_chunk():
    """Pictures of two sizes with a brief and a dense caption each, as `scenes.draw` gives them."""
    rng = np.random.default_rng(3)
    return {
        (height, 64): (
            rng.integers(0, 256, (count, height, 64, 3), dtype=np.uint8),
            [(f"a thing {n}", f"A picture of thing number {n}. It stands on the left. More.") for n in range(count)],
        )
        for height, count in ((64, 5), (96, 4))
    }
