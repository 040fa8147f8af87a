"""A dry run says what the data is, and refuses what training refuses."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from leanlens.batches.stream import Stream
from leanlens.batches.survey import large_batches, survey
from leanlens.config import checked, plain
from leanlens.dist import Group
from leanlens.pictures.sources import open_source
from leanlens.pipeline.toy import toy_pipeline
from leanlens.train.config import TrainRecipe
from leanlens.train.data import open_data
from leanlens.train.denoiser import open_models
from leanlens.train.denoiser import train_denoiser as train_run
from leanlens.train.dry_run import TOY_SIZES, dry_run, summary
from leanlens.train.lock import held
from leanlens.train.resume import write_recipe
from tests.train.tiny import CPU, tiny_recipe

TABLE = {64: ((64, 64), (64, 96))}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures of 64 x 128 (cut to 64 x 96: a quarter less), two of them without caption; one too small, one
    broken."""
    folder = tmp_path_factory.mktemp("lab")
    for number in range(12):
        Image.new("RGB", (128, 64), (number, 0, 0)).save(folder / f"p{number:02d}.png")
        if number not in (3, 7):
            (folder / f"p{number:02d}.txt").write_text(f"picture {number}")
    Image.new("RGB", (20, 20)).save(folder / "small.png")
    (folder / "small.txt").write_text("small")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder


def recipe(folder, pictures, **tables):
    values = plain(tiny_recipe(folder))
    data = {
        "sources": [str(pictures)],
        "scenes": None,
        "buckets": [{"base": 64, "batch": 16, "sizes": [[64, 64], [64, 96]]}],
    }
    values["data"] |= {**data, "missing_caption": "skip"}
    for name, table in tables.items():
        values[name] |= table
    return checked(TrainRecipe, values)


def test_counts_of_a_survey(pictures):
    stream = Stream(open_source(pictures), TABLE, {(64, 64): 2, (64, 96): 4}, seed=0, missing_caption="skip")
    seen = survey(stream)
    assert (seen.found, seen.used) == (13, 10)
    assert seen.buckets == {(64, 96): (10, pytest.approx(0.25))}
    assert seen.cut_away == pytest.approx(0.25)
    assert [Path(name).name for name in seen.too_small] == [f"{pictures.name}: small"]
    assert [name.rpartition("/")[2].split(": ")[1] for name in seen.uncaptioned] == ["p03.png", "p07.png"]
    assert list(seen.unreadable) == [f"{pictures}: broken.png"]
    assert large_batches(stream, 3) == []  # 3 micro-batches: 4, 4 and 2
    assert "train.micro_batches 4 is more than the 3 micro-batches of an epoch" in large_batches(stream, 4)[0]


def test_a_dry_run_says_all_of_it_and_makes_nothing(tmp_path, pictures):
    said = "\n".join(dry_run(recipe(tmp_path / "run", pictures), CPU))
    for text in (
        "13 found, 10 used; 25.0% of their area is cut away", "64x96 10 pictures in micro-batches of 16",
        f"no caption   2: {pictures}: p03.png: it has no dense caption; {pictures}: p07.png", "too small    1: ",
        "unreadable   1: ", "broken.png: ", "bucket 64x96 has 10 pictures and micro-batches of 16: they are smaller",
        "device       cpu", "parameters",
    ):  # fmt: skip
        assert text in said, said
    assert not list(tmp_path.iterdir())


def test_uncaptioned_pictures_are_all_named_and_refused(tmp_path, pictures):
    wanted, said = recipe(tmp_path / "run", pictures, data={"missing_caption": "error"}), []
    error = r"2 pictures of .* lack a caption \(.*p03\.png: .*p07\.png: .*\); caption them, .*data\.missing_caption"
    with pytest.raises(ValueError, match=error):
        said.extend(dry_run(wanted, CPU))
    assert any(line.startswith("no caption   2:") for line in said)
    with pytest.raises(ValueError, match=error):
        train_run(wanted, CPU)


def test_what_is_left_out_is_told_once(tmp_path, pictures, caplog):
    assert list(dry_run(recipe(tmp_path / "run", pictures), CPU))
    assert sum("skipping" in said for said in caplog.messages) == 1


def test_uncaptioned_pictures_learnt_without_text(tmp_path, pictures):
    wanted = recipe(tmp_path / "run", pictures, data={"missing_caption": "empty", "caption_dropout": 0.0})
    stream = open_data(wanted, open_models(wanted)[1], CPU).stream
    batch = next(iter(stream))
    assert len(stream) == 12
    assert {Path(key).name: caption for key, caption in zip(batch.keys, batch.captions, strict=True)} == {
        f"p{number:02d}": "" if number in (3, 7) else f"picture {number}" for number in range(12)
    }


WRONG = [
    ({"data": {"sources": ["/nowhere"]}}, r"data\.sources: /nowhere does not exist"),
    ({"model": {"enc_hidden_dim": 64}}, r"model\.enc_hidden_dim 64 does not fit the parts"),
    ({"model": {"parts": "/nowhere"}}, r"model\.parts: "),
    ({"init": {"from": "/nowhere"}}, r"init\.from: unknown model '/nowhere'"),
    (
        {"init": {"from": "nano", "std": 0.05}},
        r"invalid init\.std 0\.05: init\.from 'nano' is not the folder of",
    ),
    (
        {"data": {"buckets": [{"base": 4096, "batch": 5000, "sizes": [[4096, 4096]]}]}},
        "the largest that fits is|not even",
    ),
    ({"data": {"buckets": [{"base": 512, "batch": 2}]}}, "none of the 13 pictures of .* can be used with this table"),
    ({"run": {"dir": "/proc/run"}}, r"invalid run\.dir /proc/run: "),
    ({"train": {"micro_batches": 3}}, r"invalid train\.micro_batches 3 for 2 processes"),
]


@pytest.mark.parametrize(("tables", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_dry_run_refuses_what_training_refuses(tmp_path, pictures, tables, said):
    wanted = recipe(tmp_path / "run", pictures, **tables)
    group = Group(0, 2, torch.device("cpu")) if "micro_batches" in tables.get("train", {}) else CPU
    with pytest.raises(ValueError, match=said):
        list(dry_run(wanted, group))
    with pytest.raises(ValueError, match=said):
        train_run(wanted, group)


def test_a_folder_in_use_and_another_recipe_are_refused(tmp_path, pictures):
    wanted = recipe(tmp_path / "run", pictures)
    with held(wanted.run.dir), pytest.raises(ValueError, match=r"is in use by process"):
        list(dry_run(wanted, CPU))
    write_recipe(recipe(tmp_path / "run", pictures, train={"steps": 1}), {})
    (wanted.run.dir / "checkpoints" / "step-00000001").mkdir(parents=True)
    before = sorted(path.name for path in wanted.run.dir.iterdir())
    assert any("continue after step-00000001" in line for line in dry_run(wanted, CPU))
    with pytest.raises(ValueError, match=r"run\.seed: 3 there, 5 here"):
        list(dry_run(recipe(tmp_path / "run", pictures, run={"seed": 5}), CPU))
    assert sorted(path.name for path in wanted.run.dir.iterdir()) == before
    assert json.loads((wanted.run.dir / "recipe.json").read_text())["run"]["seed"] == 3


def test_sizes_of_the_toy_parts_are_those_stated():
    pipeline = toy_pipeline()
    text = pipeline.text_encoder.config
    assert (pipeline.vae.config.latent_channels, text.hidden_size, text.num_hidden_layers) == TOY_SIZES


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"enc_hidden_dim": 64}, r"model.enc_hidden_dim 64 does not fit the parts 'toy'; they have 48"),
        ({"out_channels": 16}, r"model.out_channels 16 does not fit the parts 'toy'; they have 32"),
        ({"selected_layer_index": [4]}, r"selected_layer_index \[4\] does not fit the parts 'toy'; .* layers 0 to 3"),
        ({"axes_dims_rope": [4, 6, 8]}, r"invalid model\.axes_dims_rope \[4, 6, 8\]: .*attention_head_dim 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path, model, message):
    with pytest.raises(ValueError, match=message):
        summary(tiny_recipe(tmp_path, model=model))


def test_sizes_of_a_folder_are_read_from_its_files(tmp_path):
    (tmp_path / "parts" / "text_encoder").mkdir(parents=True)
    (tmp_path / "parts" / "text_encoder" / "config.json").write_text(json.dumps({"hidden_size": 96}))
    with pytest.raises(ValueError, match=r"enc_hidden_dim 48 does not fit .*; they have 96"):
        summary(tiny_recipe(tmp_path / "run", model={"parts": str(tmp_path / "parts")}))
    assert "denoiser" in summary(tiny_recipe(tmp_path / "run", model={"parts": "someone/elsewhere"}))


def test_one_is_not_several(tmp_path):
    assert "1 micro-batch over 1 process," in summary(tiny_recipe(tmp_path, train={"micro_batches": 1}))


def test_a_run_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=r"invalid run.dir .*file is a file"):
            summary(tiny_recipe(folder))
