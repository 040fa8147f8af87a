"""Scenes: the same seed gives the same scene everywhere, and the ground truth is what the pixels show."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from leanlens.scenes.layout import Rules
from leanlens.scenes.render import draw_background, render, trace_things
from leanlens.scenes.scene import is_held_out, sample_scene, split_of

SEEDS = range(60)


def changed(one: Image.Image, other: Image.Image) -> np.ndarray:
    return (np.asarray(one) != np.asarray(other)).any(axis=-1)


def union(thing):
    x0, y0, x1, y1 = zip(*thing.boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def test_the_same_seed_gives_the_same_bytes_in_another_process(shelf):
    code = (
        "import hashlib, json, sys\nfrom random import Random\n"
        "from leanlens.scenes import icons, scene, render, describe\n"
        f"shelf = icons.open_library(__import__('pathlib').Path({str(shelf.folder)!r}))\n"
        "for seed in range(5):\n"
        "    one = scene.sample_scene(seed, shelf)\n"
        "    print(hashlib.sha256(render.render(one, shelf).tobytes()).hexdigest(), json.dumps(one.truth()),\n"
        "          describe.dense(one, Random(seed)).text)\n"
        "assert 'torch' not in sys.modules"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout != ""
    assert json.dumps(sample_scene(0, shelf).truth()) in runs[0].stdout


def test_seeds_differ(shelf):
    assert len({json.dumps(sample_scene(seed, shelf).truth()) for seed in SEEDS}) == len(SEEDS)


def without(scene, index):
    """The scene with one thing, its relations and its text taken away; everything else stays where it is."""
    kept = tuple(thing for at, thing in enumerate(scene.things) if at != index)
    texts = tuple(replace(text, on=text.on - (text.on > index)) for text in scene.texts if text.on != index)
    return replace(scene, things=kept, relations=(), texts=texts)


def test_taking_a_thing_away_changes_pixels_inside_its_boxes_only(shelf):
    tight = loose = 0
    for seed in SEEDS:
        scene = sample_scene(seed, shelf)
        whole = render(scene, shelf)
        for index, thing in enumerate(scene.things):
            different = changed(whole, render(without(scene, index), shelf))
            assert different.any(), (seed, thing)
            inside = np.zeros_like(different)
            for x0, y0, x1, y1 in thing.boxes:
                inside[y0:y1, x0:x1] = True
            assert not (different & ~inside).any(), (seed, thing)
            for x0, y0, x1, y1 in thing.boxes:
                found = Image.fromarray(different[y0:y1, x0:x1]).getbbox()
                edges = np.abs(np.subtract(found, (0, 0, x1 - x0, y1 - y0)))
                tight, loose = tight + (edges.max() <= 2), loose + (edges.max() > 2)
    assert tight > 20 * loose  # a white edge on a white background cannot be seen to change


def test_text_boxes_are_the_ink(shelf):
    found = 0
    for seed in range(120):
        scene = sample_scene(seed, shelf)
        for text in scene.texts:
            blank = type(scene)(**{**vars(scene), "texts": tuple(one.__class__(**{**vars(one), "string": ""})
                                   if one is text else one for one in scene.texts)})  # fmt: skip
            ink = Image.fromarray(changed(render(scene, shelf), render(blank, shelf))).getbbox()
            assert np.abs(np.subtract(ink, text.box)).max() <= 1, (seed, text, ink)
            assert text.box[3] - text.box[1] >= 7
            found += 1
    assert found > 10


def holds(word, a, b):
    """Whether a relation between two boxes is what the word says."""
    return {
        "left of": a[2] <= b[0],
        "right of": a[0] >= b[2],
        "above": a[3] <= b[1],
        "below": a[1] >= b[3],
        "on": a[3] == b[1] and b[0] <= (a[0] + a[2]) / 2 <= b[2],
        "inside": b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3],
        "in front of": a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3],
    }[word]


def test_relations_hold_between_the_boxes(shelf):
    seen = set()
    for seed in range(800):
        scene = sample_scene(seed, shelf)
        for a, word, b in scene.relations:
            assert holds(word, union(scene.things[a]), union(scene.things[b])), (seed, word)
            seen.add(word)
    assert seen == {"left of", "right of", "above", "below", "on", "inside", "in front of"}


def test_everything_lies_on_the_canvas_and_ids_are_unique(shelf):
    counts, ratios = set(), []
    for seed in range(400):
        scene = sample_scene(seed, shelf)
        ids = [thing.id for thing in scene.things]
        assert len(set(ids)) == len(ids) <= 6
        counts |= {thing.count for thing in scene.things}
        ratios.append(scene.width / scene.height)
        for box in [box for thing in scene.things for box in thing.boxes] + [text.box for text in scene.texts]:
            assert 0 < box[0] < box[2] < scene.width  # captions say that nothing touches the edges
            assert 0 < box[1] < box[3] < scene.height
    assert counts == {1, 2, 3, 4, 5, 6}
    assert 0.5 <= min(ratios) < 0.6
    assert 1.7 < max(ratios) <= 2.0


def test_truth_is_json_with_all_fields(shelf):
    truth = json.loads(json.dumps(sample_scene(3, shelf).truth()))
    assert set(truth) == {"canvas", "style", "background", "objects", "relations", "texts"}
    for thing in truth["objects"]:
        assert set(thing) == {"id", "concept", "category", "count", "color", "size", "boxes"}
        assert len(thing["boxes"]) == thing["count"]
        assert thing["size"] in ("small", "medium", "large")


def names_of(scene):
    """Every name that may be held out, from the ground truth alone."""
    truth = scene.truth()
    by_id = {thing["id"]: thing for thing in truth["objects"]}
    for thing in truth["objects"]:
        if thing["category"] not in ("shape", "support", "sign"):
            yield f"concept {thing['concept']}"
        if thing["color"] != "natural" and thing["category"] != "sign":
            yield f"color {thing['color']} {thing['concept']}"
    for a, word, b in truth["relations"]:
        first, second = by_id[a]["concept"], by_id[b]["concept"]
        yield "pair " + " + ".join(sorted((first, second)))
        if word in ("right of", "below"):
            word, first, second = {"right of": "left of", "below": "above"}[word], second, first
        yield f"relation {first} {word} {second}"


def test_splits_share_no_held_out_name(shelf):
    trained = {name for seed in range(300) for name in names_of(sample_scene(seed, shelf, "train"))}
    assert not any(map(is_held_out, trained))
    for seed in range(100):
        scene = sample_scene(seed, shelf, "test")
        assert split_of(scene) == "test"
        assert set(names_of(scene)) - trained
        assert split_of(sample_scene(seed, shelf, "train")) == "train"


def test_about_one_name_in_twenty_is_held_out():
    share = sum(is_held_out(f"concept thing {index}") for index in range(4000)) / 4000
    assert 0.035 < share < 0.065
    assert is_held_out("concept car") == is_held_out("concept car")


def test_an_exact_canvas(shelf):
    scene = sample_scene(1, shelf, None, (320, 96))
    assert render(scene, shelf).size == (320, 96)


def test_one_of_several_canvases_is_drawn_and_the_squarest_most_often(shelf):
    sizes = ((64, 128), (96, 96), (128, 64))
    found = Counter((scene.width, scene.height) for scene in (sample_scene(s, shelf, size=sizes) for s in range(200)))
    assert set(found) == set(sizes)
    assert 0.5 < found[96, 96] / 200 < 0.7  # 0.4, and a third of the rest
    assert min(found.values()) > 20
    assert sample_scene(3, shelf, size=((320, 96),)).truth()["canvas"] == [320, 96]


def test_every_object_is_as_large_as_asked_for(shelf):
    for seed in range(40):
        scene = sample_scene(seed, shelf, "train", 128, Rules(least=44))
        frames = [frame for thing in scene.things for frame in thing.frames]
        assert min(max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in frames) >= 44
        assert split_of(scene) == "train"
    small = [sample_scene(seed, shelf, "train", 128) for seed in range(40)]
    assert any(x1 - x0 < 44 and y1 - y0 < 44 for s in small for t in s.things for x0, y0, x1, y1 in t.frames)


def test_rules_put_things_horizons_and_patterns_on_a_grid(shelf):
    checked = Counter()
    for seed in range(120):
        scene = sample_scene(seed, shelf, "train", (192, 128), Rules(least=32, most=64, grid=16))
        share = scene.background.share
        if scene.background.kind == "ground":
            assert share * scene.height % 16 == pytest.approx(0, abs=1e-6)
        elif scene.background.kind in ("dots", "stripes", "checks"):
            assert share * 128 % 16 == pytest.approx(0, abs=1e-6)
        for thing in scene.things:
            if thing.category in ("shape", "support", "sign"):
                continue
            for x0, y0, x1, y1 in thing.frames:
                assert max(x1 - x0, y1 - y0) <= 64
            if len(scene.things) == thing.count == 1:
                assert (x0 % 16, y0 % 16, max(x1 - x0, y1 - y0) % 16) == (0, 0, 0)
                checked[scene.background.kind] += 1
    assert len(checked) >= 3


def test_sizes_are_few_and_a_thing_alone_is_large(shelf):
    alone, others = Counter(), Counter()
    for seed in range(160):
        scene = sample_scene(seed, shelf, "train", (256, 256), Rules(least=64, most=128, grid=16, step=32))
        for thing in scene.things:
            if thing.category in ("shape", "support", "sign") or scene.texts:
                continue
            sizes = [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in thing.frames]
            (alone if thing.count == len(scene.things) == 1 else others).update(sizes)
    assert set(alone) == {96, 128}
    assert min(others) >= 64
    assert sum(number for size, number in others.items() if size in (64, 96, 128)) > 0.8 * sum(others.values())


def test_tidy_things_stand_in_the_middle(shelf):
    rules = Rules(least=64, most=128, grid=16, step=32)
    off = {False: [], True: []}
    for tidy, far in off.items():
        for seed in range(80):
            scene = sample_scene(seed, shelf, "train", (256, 256), replace(rules, tidy=tidy))
            if len(scene.things) == scene.things[0].count == 1 and scene.background.kind != "ground":
                x0, y0, x1, y1 = scene.things[0].frames[0]
                far.append(max(abs(x0 + x1 - 256), abs(y0 + y1 - 256)) / 2)
    assert max(off[True]) <= 16  # a whole token, where the thing is narrow
    assert max(off[False]) > 24


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (Rules(least=40, most=60, step=32), "invalid step 32"),
        (Rules(step=-1), "invalid step -1"),
        (Rules(grid=33), "invalid grid 33"),
        (Rules(least=40, most=39), "invalid most 39"),
        (Rules(most=20, grid=16), "invalid most 20"),
    ],
)
def test_wrong_rules_are_refused(shelf, rules, said):
    with pytest.raises(ValueError, match=said):
        sample_scene(0, shelf, None, (128, 192), rules)


@pytest.mark.parametrize("least", [-1, 65])
def test_a_wrong_least_is_refused(shelf, least):
    with pytest.raises(ValueError, match=f"invalid least {least}"):
        sample_scene(0, shelf, None, (128, 192), Rules(least=least))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("valid", 256), "invalid split 'valid'"),
        ((None, 100), "invalid size 100"),
        ((None, (32, 256)), r"invalid size \(32, 256\)"),
        ((None, ((96, 96), (32, 256))), r"invalid size \(32, 256\)"),
        ((None, ((96, 96), 64)), "invalid size 64"),
        ((None, ()), r"invalid size \(\)"),
    ],
)
def test_wrong_arguments(shelf, arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_scene(0, shelf, *arguments)


def test_traced_things_lie_in_their_frames_and_boxes(shelf):
    for seed in range(25):
        scene = sample_scene(seed, shelf)
        things = trace_things(scene, shelf)
        assert things.shape == (scene.height, scene.width)
        frames = [frame for thing in scene.things for frame in thing.frames]
        boxes = [box for thing in scene.things for box in thing.boxes]
        assert set(np.unique(things)) <= set(range(len(frames) + 1))
        for number, ((x0, y0, x1, y1), box) in enumerate(zip(frames, boxes, strict=True), 1):
            rows, columns = np.nonzero(things == number)
            if len(rows) == 0:
                continue
            assert rows.min() >= y0
            assert rows.max() < y1
            assert columns.min() >= x0
            assert columns.max() < x1
            assert columns.min() >= box[0] - 2
            assert rows.max() <= box[3] + 1


def test_traced_things_are_what_a_picture_shows(shelf):
    """Pixels outside all things are those of the background alone."""
    scene = next(one for one in (sample_scene(seed, shelf) for seed in range(99)) if len(one.things) > 2 and one.texts)
    picture, empty = (
        np.asarray(render(scene, shelf), int),
        np.asarray(draw_background(scene.background, scene.width, scene.height), int),
    )
    differs = np.abs(picture - empty).sum(axis=-1) > 150  # more than the soft edge of a thing
    assert (differs & (trace_things(scene, shelf) == 0)).mean() < 0.01
