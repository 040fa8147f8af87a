import numpy as np
from PIL import Image

from leanlens.scenes.layout import Background
from leanlens.scenes.render import draw_background
from leanlens.score.crosscheck.boxes import box_overlap
from leanlens.score.crosscheck.detection import look_at
from leanlens.score.crosscheck.naming import crosscheck_network


def test_things_are_found_where_they_are_at_any_size_of_the_image(names, shelf):
    image = draw_background(Background("plain", ("light blue",), ((190, 220, 246),)), 256, 256)
    places = {"duck": (20, 30), "car": (140, 150)}
    boxes = {}
    for concept, (x, y) in places.items():
        sprite = shelf.sprite(concept, "noto", None, shelf.fit(concept, "noto", 90, 90))
        image.paste(sprite, (x, y), sprite)
        boxes[concept] = (x, y, x + sprite.width, y + sprite.height)
    wanted = [set(places)] * 2
    views = look_at([image, image.resize((512, 512))], wanted, names, crosscheck_network())
    for view in views:
        found = {one.concept: one.box for one in view.things}
        for concept, box in boxes.items():
            assert box_overlap(found[concept], box) > 0.8


def test_nothing_is_named_where_nothing_is_wanted(names):
    (view,) = look_at([Image.new("RGB", (64, 64))], [set()], names, crosscheck_network())
    assert (view.things, view.boxes) == ([], [])
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))
    (view,) = look_at([noise], [{"duck"}], names, crosscheck_network())
    assert all(one.concept != "duck" for one in view.things)


def test_what_holds_a_thing_is_named_without_it(names, shelf):
    image = draw_background(Background("plain", ("light blue",), ((190, 220, 246),)), 256, 256)
    for concept, style, color, side, at in (("hexagon", "shapes", "purple", 150, 50), ("duck", "noto", None, 70, 90)):
        sprite = shelf.sprite(concept, style, color, shelf.fit(concept, style, side, side))
        image.paste(sprite, (at, at), sprite)
    (view,) = look_at([image], [{"hexagon", "duck"}], names, crosscheck_network())
    found = {one.concept: one.box for one in view.things}
    assert {"hexagon", "duck"} <= set(found)
    x0, y0, x1, y1 = found["duck"]
    assert found["hexagon"][0] < x0 < x1 < found["hexagon"][2]
    assert found["hexagon"][1] < y0 < y1 < found["hexagon"][3]
