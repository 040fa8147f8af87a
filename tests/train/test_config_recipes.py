"""The recipes we stand behind: they are read, they are the paper's, and their cost is what torch counts."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from leanlens.batches.assign import check_table
from leanlens.config import read_recipe
from leanlens.pipeline.features import TextFeatures
from leanlens.plan.compute import MEAN_TEXT_TOKENS, training_flops
from leanlens.plan.training import images_per_step
from leanlens.train.autoencoder import open_autoencoder
from leanlens.train.autoencoder_config import AutoencoderRecipe
from leanlens.train.config import Bucket, TrainRecipe, kind_of_recipe
from leanlens.train.denoiser_losses import training_losses
from leanlens.train.denoiser_model import build_denoiser, freeze_unread, sizes_of
from leanlens.train.dry_run import summary
from leanlens.train.language import build_language
from leanlens.train.language_config import LanguageRecipe
from leanlens.train.memory_check import recipe_micro_batches, recipe_parameters, recipe_state_bytes
from leanlens.train.step import accumulate_gradients
from tests.train.tiny import CPU, tiny_data, tiny_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"))


def recipe(name, *changes):
    return read_recipe(TrainRecipe, next(path for path in RECIPES if path.stem == name), changes)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_outlined(path):
    alone = {"autoencoder": AutoencoderRecipe, "language": LanguageRecipe}.get(kind_of_recipe(path))
    if alone is not None:
        assert read_recipe(alone, path).train.steps > 0
    else:
        assert "parameters" in summary(read_recipe(TrainRecipe, path))


def test_the_nano_recipes_fit_each_other():
    """What the autoencoder makes is what the denoiser takes; its comment states its size."""
    vae = read_recipe(AutoencoderRecipe, next(path for path in RECIPES if path.stem == "cpu-autoencoder"))
    nano = recipe("cpu-128")
    assert vae.autoencoder.latent_channels == nano.model.out_channels
    assert sum(weight.numel() for weight in open_autoencoder(vae).parameters()) == pytest.approx(3.7e6, rel=0.02)


def test_the_language_model_is_as_large_as_its_recipe_says():
    wanted = read_recipe(LanguageRecipe, next(path for path in RECIPES if path.stem == "language"))
    count = sum(weight.numel() for weight in build_language(wanted, wanted.language.vocabulary).parameters())
    assert count == pytest.approx(7e6, rel=0.15)


def test_stage_one_is_the_papers():
    stage = recipe("stage1")
    assert recipe_parameters(stage) == 4_104_225_152
    assert images_per_step(stage.train.micro_batches, recipe_micro_batches(stage, 128)) == 3072
    assert (stage.train.steps, stage.optim.lr, stage.optim.betas, stage.optim.clip) == (
        400_000,
        2e-4,
        (0.9, 0.999),
        1.0,
    )
    assert len(stage.data.batch_sizes) == 9


@pytest.mark.parametrize("base", [32, 48, 64, 80, 96, 128, 512])
def test_small_bases_have_each_size_once(base):
    table = Bucket(base=base, batch=1).table
    check_table({base: table})
    assert (base, base) in table


def test_stage_two_is_the_papers():
    stage = recipe("stage2")
    assert len(stage.data.batch_sizes) == 27
    assert {stage.data.bases[size]: count for size, count in stage.data.batch_sizes.items()} == {
        512: 24,
        768: 10,
        1024: 6,
    }
    assert (stage.train.steps, stage.optim.lr, stage.init.start) == (400_000, 1e-4, "runs/lens-stage1")


@pytest.mark.parametrize("layers", [2, pytest.param(48, marks=pytest.mark.long)])
def test_a_step_of_stage_one_costs_what_torch_counts(layers):
    """Full width, one picture of 512 x 512 with a caption of mean length, forward and backward without memory."""
    model = build_denoiser(recipe("stage1", f"model.num_layers={layers}").model, 0, device="meta")
    freeze_unread(model)
    text = TextFeatures(
        [torch.zeros(1, MEAN_TEXT_TOKENS, 2880, device="meta")] * 4, torch.ones(1, MEAN_TEXT_TOKENS, dtype=torch.bool)
    )
    batch = SimpleNamespace(latents=torch.zeros(1, 1024, 128, device="meta"), grid=(32, 32), text=text)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        training_losses(model, batch, 0, 0, 0).sum().backward()
    assert training_flops(sizes_of(model), 1024, MEAN_TEXT_TOKENS) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_ledger_of_a_step_is_what_torch_counts(tmp_path):
    tiny = tiny_recipe(tmp_path)
    data, model = tiny_data(tiny), build_denoiser(tiny.model, 0)
    freeze_unread(model)
    micro = [data.stream.batch(0), data.stream.batch(1)]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        sums = accumulate_gradients(model, data, micro, 0, tiny, CPU)
    assert sums.flops == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_that_are_kept_are_about_what_fit_says(tmp_path, precision):
    """Counted while a forward pass keeps them; the estimate may be a third off, no more."""
    sizes = {"num_layers": 6, "num_attention_heads": 8, "attention_head_dim": 32, "axes_dims_rope": [8, 12, 12]}
    wanted = tiny_recipe(
        tmp_path,
        model=sizes,
        train={"precision": precision},
        data={"buckets": [{"base": 256, "batch": 1, "sizes": [[256, 256]]}]},
    )
    model = build_denoiser(wanted.model, 0)
    text = TextFeatures([torch.zeros(1, 256, 48)] * 4, torch.ones(1, 256, dtype=torch.bool))
    batch = SimpleNamespace(latents=torch.zeros(1, 256, 128), grid=(16, 16), text=text)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def count(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.numel() > 4096:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    alive = []
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), autocast:
        loss = training_losses(model, batch, 0, 0, 0).sum()
    assert loss.isfinite()
    (batch,) = recipe_micro_batches(wanted, 1)
    assert 0.75 < batch.activations / sum(kept.values()) < 1.34


def test_memory_is_shared_out():
    stage = recipe("stage1")
    assert recipe_state_bytes(stage, 1) == 128 * recipe_state_bytes(stage, 128) == pytest.approx(24 * 4.1e9, rel=0.01)
