"""The loss of a step: its value, its randomness, its weights; and the denoiser it starts from."""

import pytest
import torch

from leanlens.flow.times import training_times
from leanlens.train.denoiser_losses import denoiser_losses, draw_randomness, training_losses
from leanlens.train.denoiser_model import build_denoiser, freeze_unread, sizes_of
from leanlens.train.step import accumulate_gradients, cut, losses_of, validation_losses
from tests.train.tiny import CPU, RandomStream, encode, tiny_data, tiny_recipe

MIXED = {"buckets": [{"base": 64, "batch": 3, "sizes": [[64, 64]]}, {"base": 48, "batch": 1, "sizes": [[48, 48]]}]}


@pytest.fixture
def batch():
    return encode(RandomStream({(64, 64): 4}).batch(0))


@pytest.fixture
def model(tmp_path):
    return build_denoiser(tiny_recipe(tmp_path).model, 0)


def test_initial_prediction_is_zero_so_the_loss_is_that_of_the_target(model, batch):
    noise, t = torch.randn_like(batch.latents), torch.rand(4)
    wanted = (noise - batch.latents).square().mean((1, 2))
    torch.testing.assert_close(denoiser_losses(model, batch, t, noise), wanted)


def test_loss_is_the_formula_written_out(model, batch):
    torch.nn.init.normal_(model.proj_out.weight)
    noise, t = torch.randn_like(batch.latents), torch.tensor([0.1, 0.4, 0.7, 0.95])
    for row in range(4):  # one by one, without padding
        length = int(batch.text.mask[row].sum())
        x_t = (1 - t[row]) * batch.latents[row] + t[row] * noise[row]
        text = [layer[row : row + 1, :length] for layer in batch.text.layers]
        v = model(x_t[None], text, None, t[row : row + 1], [(1, *batch.grid)])
        wanted = (v[0] - (noise[row] - batch.latents[row])).square().mean()
        found = denoiser_losses(model, batch, t, noise)[row]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pack", [False, True])
def test_channels_weigh_as_the_recipe_says(model, batch, tmp_path, pack):
    """The weights' scale does not matter; what they multiply is the error of the four places of each channel."""
    torch.nn.init.normal_(model.proj_out.weight)
    channels = model.config.out_channels
    one, other = (
        tiny_recipe(tmp_path, train={"channel_weights": [scale * (1 + at) for at in range(channels)], "pack": pack})
        for scale in (1.0, 7.0)
    )
    torch.testing.assert_close(losses_of(model, [batch], one, 3, [0])[0], losses_of(model, [batch], other, 3, [0])[0])
    only = [1e-9] * channels
    only[1] = 1.0
    recipe = tiny_recipe(tmp_path, train={"channel_weights": only, "pack": pack})
    normal, noise = draw_randomness(recipe.run.seed, 3, 0, batch.latents.shape)
    t = training_times(normal, noise.shape[1])
    text = [layer.float() for layer in batch.text.layers]
    x_t = (1 - t[:, None, None]) * batch.latents + t[:, None, None] * noise
    error = model(x_t, text, batch.text.mask, t, [(1, *batch.grid)]) - (noise - batch.latents)
    wanted = error[..., 4:8].square().mean((1, 2))
    torch.testing.assert_close(losses_of(model, [batch], recipe, 3, [0])[0], wanted, rtol=1e-3, atol=1e-4)


def test_as_many_channel_weights_as_channels(tmp_path):
    with pytest.raises(ValueError, match=r"train.channel_weights has 3 numbers; give \d+, one for each of"):
        tiny_recipe(tmp_path, train={"channel_weights": [1.0, 2.0, 3.0]})


def test_randomness_belongs_to_the_sample_not_to_the_micro_batch():
    whole = draw_randomness(1, 7, 0, torch.Size((4, 3, 2)))
    for row in range(4):
        one = draw_randomness(1, 7, row, torch.Size((1, 3, 2)))
        assert torch.equal(one[0], whole[0][row : row + 1])
        assert torch.equal(one[1], whole[1][row : row + 1])
    for other in ((2, 7, 0), (1, 8, 0), (1, 7, 4)):
        assert not torch.equal(draw_randomness(*other, torch.Size((4, 3, 2)))[1], whole[1])


def test_randomness_of_a_batch_is_drawn_on_the_device_at_once(tmp_path, model, batch):
    cpu, shape = torch.device("cpu"), torch.Size((4, 300, 8))
    first, again, later = (draw_randomness(1, step, 0, shape, cpu) for step in (7, 7, 8))
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], later[1])
    assert not torch.equal(first[1], draw_randomness(1, 7, 0, shape)[1])
    assert first[0].shape == (4,)
    assert abs(float(first[1].std()) - 1) < 0.05
    losses = [
        losses_of(model, [batch], tiny_recipe(tmp_path, train={"noise": kind}), 3, [0])[0]
        for kind in ("sample", "batch")
    ]
    assert losses[0].shape == losses[1].shape
    assert not torch.equal(*losses)


def test_training_times_follow_the_resolution(model, batch):
    normal, noise = draw_randomness(5, 0, 0, batch.latents.shape)
    torch.testing.assert_close(
        training_losses(model, batch, 5, 0, 0), denoiser_losses(model, batch, training_times(normal, 16), noise)
    )


@pytest.mark.parametrize("pack", [False, True])
def test_training_times_follow_the_recipe(model, batch, tmp_path, pack):
    torch.nn.init.normal_(model.proj_out.weight)
    recipe = tiny_recipe(tmp_path, train={"logit_mean": -1.0, "logit_std": 0.5, "pack": pack})
    normal, noise = draw_randomness(recipe.run.seed, 3, 0, batch.latents.shape)
    wanted = denoiser_losses(model, batch, training_times(normal, noise.shape[1], -1.0, 0.5), noise)
    torch.testing.assert_close(losses_of(model, [batch], recipe, 3, [0])[0], wanted)
    assert not torch.allclose(losses_of(model, [batch], tiny_recipe(tmp_path), 3, [0])[0], wanted)


def test_cut_numbers_and_weighs_samples_over_all_processes():
    counts = [[24, 6], [10, 24]]  # in order: 24, 10, 6, 24
    assert cut(counts, 0, "sample") == ([0, 34], [1 / 64, 1 / 64])
    assert cut(counts, 1, "sample") == ([24, 40], [1 / 64, 1 / 64])
    assert cut(counts, 1, "rank") == ([24, 40], [1 / 40, 1 / 96])


@pytest.mark.parametrize("average", ["sample", "rank"])
def test_step_sums_and_gradient_are_the_weighted_mean(tmp_path, average):
    recipe = tiny_recipe(tmp_path, data=MIXED, train={"average": average})
    data = tiny_data(recipe)
    micro = [data.stream.batch(0), data.stream.batch(1)]  # 3 of 64 pixels, 1 of 48
    model = build_denoiser(recipe.model, 0)
    sums = accumulate_gradients(model, data, micro, 0, recipe, CPU)
    found = model.proj_out.weight.grad.clone()

    model.zero_grad()
    left = training_losses(model, encode(micro[0]), 3, 0, 0)
    right = training_losses(model, encode(micro[1]), 3, 0, 3)
    wanted = torch.cat([left, right]).mean() if average == "sample" else (left.mean() + right.mean()) / 2
    wanted.backward()
    assert sums.loss == pytest.approx(wanted.item(), rel=1e-6)
    torch.testing.assert_close(found, model.proj_out.weight.grad)
    assert sums.samples == 4
    assert sums.values == pytest.approx({"loss_64": left.mean().item(), "loss_48": right.mean().item()}, rel=1e-6)
    assert sums.image_tokens == 3 * 16 + 9
    assert sums.text_tokens == 4 * 3


def test_unread_weights_are_those_without_gradient(model, batch):
    torch.nn.init.normal_(model.proj_out.weight)
    denoiser_losses(model, batch, torch.rand(4), torch.randn_like(batch.latents)).sum().backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    freeze_unread(model)
    assert without == {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert without


def test_weights_depend_on_the_seed_alone(tmp_path):
    sizes = tiny_recipe(tmp_path).model
    torch.manual_seed(1)
    left = build_denoiser(sizes, 4)
    torch.manual_seed(2)
    torch.testing.assert_close(left.state_dict(), build_denoiser(sizes, 4).state_dict(), rtol=0, atol=0)
    assert not torch.equal(left.img_in.weight, build_denoiser(sizes, 5).img_in.weight)


def test_validation_is_the_same_every_time_and_by_resolution(tmp_path):
    recipe = tiny_recipe(tmp_path, data=MIXED)
    data, model = tiny_data(recipe), build_denoiser(recipe.model, 0)
    first = validation_losses(model, data, recipe, CPU)
    torch.manual_seed(9)
    assert validation_losses(model, data, recipe, CPU) == first
    assert first.keys() == {"validation_loss", "validation_loss_48", "validation_loss_64"}
    assert first["validation_loss"] == pytest.approx(
        (3 * first["validation_loss_64"] + first["validation_loss_48"]) / 4
    )


def test_sizes_are_those_of_the_model(model):
    assert (sizes_of(model).width, sizes_of(model).text_channels, sizes_of(model).latent_channels) == (32, 192, 128)


def test_what_does_not_fit_while_running_is_named(tmp_path, model, monkeypatch):
    recipe = tiny_recipe(tmp_path)
    data = tiny_data(recipe)

    def refuse(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("leanlens.train.step.training_losses", refuse)
    with pytest.raises(ValueError, match=r"2 pictures of 64x64 does not fit .*1 needs half of it"):
        accumulate_gradients(model, data, [data.stream.batch(0)], 0, recipe, CPU)
