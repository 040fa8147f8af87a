"""What may change when a run is continued, and what may not; data that was moved is the same data."""

import json
import os
import shutil

import pytest
from PIL import Image

from leanlens.config import checked, plain
from leanlens.pictures.fingerprint import fingerprint_source
from leanlens.pictures.record import Record
from leanlens.pictures.shards import write_shards
from leanlens.train.config import TrainRecipe
from leanlens.train.language_config import LanguageRecipe
from leanlens.train.resume import require_same_run, write_recipe
from tests.train.tiny import tiny_recipe


def write_pictures(folder, count=5):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}")
    return folder


def claim_run(recipe, begun):
    write_recipe(recipe, require_same_run(recipe) if begun else {})


def with_sources(folder, *sources, **tables):
    values = plain(tiny_recipe(folder, **tables))
    values["data"] |= {"scenes": None, "sources": [str(source) for source in sources]}
    return checked(TrainRecipe, values)


FREE = [
    {"train": {"steps": 9}}, {"save": {"every": 7, "keep": 9}}, {"data": {"workers": 3}}, {"data": {"cache": "/c"}},
    {"sample": {"every": 1, "prompts": ["a dog"], "steps": 2, "seed": 4}}, {"metrics": {"tensorboard": True}},
    {"metrics": {"peak_tflops": 3.0}}, {"ema": {"export": 0.1}}, {"ema": {"export": 0}}, {"ema": {"every": 3}},
    {"validate": {"every": 2}}, {"guard": {"restores": 9}}, {"run": {"device": "cpu"}},
]  # fmt: skip
DECIDES = [
    ({"run": {"seed": 4}}, "run.seed: 3 there, 4 here"),
    ({"optim": {"lr": 2e-3}}, "optim.lr: 0.001 there, 0.002 here"),
    ({"data": {"caption": "brief"}}, "data.caption: 'dense' there, 'brief' here"),
    ({"data": {"missing_caption": "skip"}}, "data.missing_caption: 'error' there, 'skip' here"),
    ({"data": {"caption_dropout": 0.2}}, "data.caption_dropout: 0.1 there, 0.2 here"),
    ({"train": {"micro_batches": 4}}, "train.micro_batches: 2 there, 4 here"),
    ({"ema": {"stds": [0.05]}}, "ema.stds: [0.05, 0.1] there, [0.05] here"),
    ({"guard": {"spike": 5.0}}, "guard.spike: 3.0 there, 5.0 here"),
    ({"model": {"num_layers": 3}}, "model.num_layers: 2 there, 3 here"),
]


@pytest.mark.parametrize("tables", FREE, ids=str)
def test_what_decides_no_number_may_change(tmp_path, tables):
    claim_run(tiny_recipe(tmp_path), begun=False)
    claim_run(tiny_recipe(tmp_path, **tables), begun=True)
    kept = json.loads((tmp_path / "recipe.json").read_text())
    assert kept == json.loads(json.dumps(plain(tiny_recipe(tmp_path, **tables))))


@pytest.mark.parametrize(("tables", "said"), DECIDES, ids=[said for _, said in DECIDES])
def test_what_decides_the_numbers_is_refused_by_its_key(tmp_path, tables, said):
    claim_run(tiny_recipe(tmp_path), begun=False)
    before = (tmp_path / "recipe.json").read_text()
    with pytest.raises(ValueError, match=r"holds a run with another recipe") as found:
        claim_run(tiny_recipe(tmp_path, **tables), begun=True)
    assert f"({said})" in str(found.value)
    assert (tmp_path / "recipe.json").read_text() == before


def test_a_recipe_of_an_earlier_version_has_the_defaults_of_today(tmp_path):
    recipe = tiny_recipe(tmp_path)
    claim_run(recipe, begun=False)
    values = json.loads((tmp_path / "recipe.json").read_text())
    del values["data"]["missing_caption"], values["guard"]
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    (tmp_path / "inputs.json").unlink()
    claim_run(recipe, begun=True)
    with pytest.raises(ValueError, match=r"guard\.window: 64 there, 9 here"):
        claim_run(tiny_recipe(tmp_path, guard={"window": 9}), begun=True)


@pytest.mark.parametrize("had", ["fingerprints", "none: an earlier version"])
def test_a_copy_of_the_data_is_the_same_data(tmp_path, had):
    first = write_pictures(tmp_path / "here")
    claim_run(with_sources(tmp_path / "run", first), begun=False)
    if had != "fingerprints":
        (tmp_path / "run" / "inputs.json").unlink()
    second = tmp_path / "elsewhere" / "copied"
    shutil.copytree(first, second)
    if had == "fingerprints":
        shutil.rmtree(first)
    claim_run(with_sources(tmp_path / "run", second), begun=True)
    (second / "3.txt").write_text("picture X")  # as long as before
    with pytest.raises(ValueError, match=r"data\.sources: \['.*copied'\] there, \['.*other'\] here\) \(it is no copy"):
        claim_run(with_sources(tmp_path / "run", second.rename(tmp_path / "other")), begun=True)


def test_captions_of_a_language_model_may_move_too(tmp_path):
    def recipe(source):
        values = {"run": {"dir": str(tmp_path / "run")}, "captions": {"sources": [str(source)]}, "train": {"steps": 3}}
        return checked(LanguageRecipe, values)

    claim_run(recipe(write_pictures(tmp_path / "a")), begun=False)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    require_same_run(recipe(tmp_path / "b"))
    with pytest.raises(ValueError, match=r"captions\.sources"):
        require_same_run(recipe(write_pictures(tmp_path / "c", 6)))


def test_shards_are_known_by_the_sums_of_their_manifest(tmp_path, monkeypatch):
    records = [Record(str(n), b"\xff\xd8\xff" + bytes([n]) * 99, {"brief": "x"}) for n in range(4)]
    write_shards(tmp_path / "a", records, per_shard=2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_shards(tmp_path / "c", records[:3], per_shard=2)
    monkeypatch.setattr("leanlens.pictures.fingerprint.fingerprint", None)  # no shard is read
    assert (
        fingerprint_source(tmp_path / "a") == fingerprint_source(tmp_path / "b") != fingerprint_source(tmp_path / "c")
    )


def test_large_folders_are_sampled(tmp_path, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(600):
        (folder / f"{number:03d}.txt").write_text("a")
    opened = []
    real = open

    def counted(path, *words, **named):
        opened.append(path)
        return real(path, *words, **named)

    monkeypatch.setattr("builtins.open", counted)
    before = fingerprint_source(folder)
    monkeypatch.undo()
    assert 0 < len([path for path in opened if str(path).startswith(str(folder))]) <= 256
    (folder / ".hidden").write_text("x")
    assert fingerprint_source(folder) == before
    os.rename(folder / "001.txt", folder / "001x.txt")
    assert fingerprint_source(folder) != before
