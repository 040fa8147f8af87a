import numpy as np

from leanlens.score.crosscheck import compositions
from leanlens.score.crosscheck.compositions import SIGN, compose

DRAWINGS = [("duck", "noto"), ("car", "fluent-emoji-flat"), ("hexagon", "shapes")]


def test_a_composition_is_the_same_for_the_same_numbers(shelf):
    first, things = compose(shelf, DRAWINGS, np.random.default_rng(3))
    again, same = compose(shelf, DRAWINGS, np.random.default_rng(3))
    assert things == same
    np.testing.assert_array_equal(np.asarray(first), np.asarray(again))


def test_what_is_visible_is_named_inside_the_image(shelf):
    seen, colors = set(), set()
    for seed in range(30):
        image, things = compose(shelf, DRAWINGS, np.random.default_rng(seed))
        for one in things:
            x0, y0, x1, y1 = one.box
            assert 0 <= x0 < x1 <= image.width
            assert 0 <= y0 < y1 <= image.height
            assert one.concept == SIGN or (one.concept, one.style or "shapes") in DRAWINGS
            seen.add(one.concept)
            colors.add(one.color)
    assert seen == {"duck", "car", "hexagon", SIGN}
    assert len(colors) > 6


def test_a_covered_thing_is_left_out(shelf, monkeypatch):
    monkeypatch.setattr(compositions, "LONGEST", (0.95, 0.96))  # one over the other
    monkeypatch.setattr(compositions, "ROOMY", 1000)
    counts = [len(compose(shelf, [("duck", "noto")] * 3, np.random.default_rng(seed))[1]) for seed in range(5)]
    assert min(counts) < 3
