from pathlib import Path

import pytest

from leanlens.scenes.layout import Background
from leanlens.scenes.render import draw_background, render
from leanlens.scenes.scene import sample_scene
from leanlens.score import features, packed, shipped
from leanlens.score.crosscheck import naming
from leanlens.score.crosscheck.scorer import Crosscheck
from leanlens.score.features import open_gallery, ship_gallery
from leanlens.score.scene import SceneScorer
from leanlens.score.shipped import shipped_library

BLUE = {"kind": "plain", "colors": ["light blue"]}


def test_the_files_are_small():
    sizes = [path.stat().st_size for path in packed.FITS.iterdir()]
    assert len(sizes) == 4
    assert max(sizes) < 1_000_000
    assert sum(sizes) < 2_500_000


@pytest.mark.parametrize("scorer", [SceneScorer, Crosscheck])
def test_what_ships_judges_without_a_drawing_on_disk(scorer, shelf, tmp_path, monkeypatch):
    monkeypatch.setenv("LEANLENS_SCENES", str(tmp_path))
    known = shipped_library()
    assert {"duck", "zebra", "hexagon"} <= set(known.concepts)
    assert known.concepts["zebra"].category == "animal"
    assert known.bitmaps == {}
    checker = scorer(known)
    image = draw_background(Background("plain", ("light blue",), ((190, 220, 246),)), 256, 256)
    sprite = shelf.sprite("duck", "noto", None, (110, 110))
    image.paste(sprite, (70, 70), sprite)
    truths = [{"objects": [{"concept": name}], "background": BLUE} for name in ("duck", "zebra")]
    scores = checker([image, image], ["", ""], truths)
    assert [score["object"] for score in scores] == [1, 0]
    assert scores[0]["background"] == 1
    assert list(tmp_path.iterdir()) == []


def test_a_packed_gallery_judges_as_the_fitted_one(shelf, network, gallery, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "fitted_gallery", lambda *_: gallery)
    monkeypatch.setattr(features, "CONCEPTS", tmp_path / "concepts")
    monkeypatch.setattr(features, "STYLES", (tmp_path / "styles-1", tmp_path / "styles-2"))
    ship_gallery(shelf, network, features.CONCEPTS, features.STYLES)
    other = open_gallery(shelf, network)
    assert other is not gallery
    assert (other.drawings == gallery.drawings).all()
    scenes = [sample_scene(seed, shelf, None, (192, 192)) for seed in range(8)]
    pictures, truths = [render(scene, shelf) for scene in scenes], [scene.truth() for scene in scenes]
    again = SceneScorer(shelf, other, read=lambda image: None)
    assert again(pictures, [""] * 8, truths) == scorer(pictures, [""] * 8, truths)


def test_packed_names_are_those_that_were_fitted(shelf, names, tmp_path, monkeypatch):
    network = naming.crosscheck_network()
    monkeypatch.setattr(naming, "fitted_names", lambda *_: names)
    monkeypatch.setattr(naming, "SHIPPED", tmp_path / "names")
    naming.ship_names(shelf, network, naming.SHIPPED)
    other = naming.open_names(shelf, network)
    assert other is not names
    assert (other.concepts, other.styles) == (names.concepts, names.styles)
    assert (other.drawn == names.drawn).all()
    rows = network.embed([])
    assert other.style_odds(rows).shape == (0, len(names.concepts), len(names.styles))
    assert abs(other.concept_weights - names.concept_weights).max() < 0.05 * abs(names.concept_weights).max()


def test_without_the_files_it_says_how_to_make_them(monkeypatch):
    monkeypatch.setattr(shipped, "CONCEPTS", Path("nowhere.safetensors"))
    with pytest.raises(ValueError, match=r"nowhere.safetensors is missing; run python -m leanlens.score.shipped"):
        shipped_library()
