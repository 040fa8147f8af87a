"""Scenes that are drawn in memory are those that are written to files."""

import numpy as np
import pytest

pytest.importorskip("resvg_py")

from leanlens.scenes import draw
from leanlens.scenes.icons import library
from leanlens.scenes.layout import PATTERNS
from leanlens.scenes.render import render
from leanlens.scenes.scene import sample_scene


def test_every_core_draws_what_one_draws(monkeypatch):
    """Chunks come in order, from the scene on that is asked for."""
    monkeypatch.setattr(draw, "CHUNK", 3)
    folder, canvas = library("sample").folder, ((64, 64), (64, 96))
    chunks = list(draw.drawn_chunks(folder, 8, 5, canvas, first=2, processes=2))
    for chunk, (first, count) in zip(chunks, [(2, 3), (5, 3)], strict=True):
        whole = draw.draw_chunk(str(folder), first, count, 5, canvas)
        assert chunk.keys() == whole.keys()
        for size, (pixels, captions) in chunk.items():
            assert np.array_equal(pixels, whole[size][0])
            assert captions == whole[size][1]


def test_backgrounds_are_chosen():
    shelf = library("sample")
    first = 78 * draw.SEED_STEP
    drawn = [sample_scene(first + number, shelf, "train", ((64, 64),)) for number in range(40)]
    patterned = [np.asarray(render(one, shelf)) for one in drawn if one.background.kind in PATTERNS]
    ((pixels, captions),) = draw.draw_chunk(str(shelf.folder), 0, 40, 78, ((64, 64),), backgrounds=PATTERNS).values()
    assert 0 < len(captions) == len(patterned) < 40
    assert np.array_equal(pixels, np.stack(patterned))
