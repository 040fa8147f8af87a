import pytest
import torch

from leanlens.batches.encode import EncodedBatch
from leanlens.batches.pack import pack, predict_packed, sample_means, spread
from leanlens.pipeline.features import TextFeatures, join

GRIDS = [(2, 3), (4, 4), (1, 5)]


def encoded(grid, lengths, seed):
    random = torch.Generator().manual_seed(seed)
    rows = [
        TextFeatures(
            [torch.randn(1, length, 48, generator=random) for _ in range(4)], torch.ones(1, length, dtype=torch.bool)
        )
        for length in lengths
    ]
    latents = torch.randn(len(lengths), grid[0] * grid[1], 128, generator=random)
    return EncodedBatch(latents, grid, join(rows), [f"{seed}-{n}" for n in range(len(lengths))], seed)


@pytest.fixture
def batches():
    """Three resolutions, texts of all lengths, one of them dropped, one batch without any text."""
    return [encoded(GRIDS[0], [3, 0, 7], 0), encoded(GRIDS[1], [5, 2], 1), encoded(GRIDS[2], [0], 2)]


def test_a_row_holds_the_samples_in_order_without_padding(batches):
    packed = pack(batches)
    assert packed.latents.shape == (1, 3 * 6 + 2 * 16 + 5, 128)
    assert packed.grids == [(2, 3)] * 3 + [(4, 4)] * 2 + [(1, 5)]
    assert packed.lengths == [6, 6, 6, 16, 16, 5]
    assert packed.text_lengths == [3, 0, 7, 5, 2, 0]
    assert packed.keys == ["0-0", "0-1", "0-2", "1-0", "1-1", "2-0"]
    assert torch.equal(packed.latents[0, 6:12], batches[0].latents[1])
    for layer, packed_layer in enumerate(packed.text):
        assert packed_layer.shape == (1, 17, 48)
        assert torch.equal(packed_layer[0, 3:10], batches[0].text.layers[layer][2])


def test_values_go_to_tokens_and_back(batches):
    packed = pack(batches)
    values = torch.arange(6.0)
    tokens = spread(values, packed)
    assert tokens.shape == (1, 55, 1)
    torch.testing.assert_close(sample_means(tokens.expand(-1, -1, 128), packed), values)


def test_samples_do_not_see_each_other(toy, batches):
    packed = pack(batches)
    times = torch.linspace(0.1, 0.9, 6)
    noisy = packed.latents.clone().requires_grad_()
    velocity = predict_packed(toy.transformer, packed, noisy, times)
    velocity[0, 6:12].sum().backward()
    assert noisy.grad[0, 6:12].abs().sum() > 0
    assert noisy.grad[0, :6].abs().sum() == 0
    assert noisy.grad[0, 12:].abs().sum() == 0


def test_checkpointed_packs_have_the_same_gradients(toy, batches):
    packed = pack(batches)
    model, gradients = toy.transformer, []
    for checkpointing in (False, True):
        (model.enable_gradient_checkpointing if checkpointing else model.disable_gradient_checkpointing)()
        model.zero_grad()
        predict_packed(model, packed, packed.latents, torch.tensor(0.5)).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    model.disable_gradient_checkpointing()
    model.zero_grad()
    assert all(map(torch.equal, *gradients))


def test_packs_that_do_not_fit_together_are_refused(toy, batches):
    packed = pack(batches)
    call = {
        "hidden_states": packed.latents,
        "encoder_hidden_states": packed.text,
        "timestep": torch.tensor(0.5),
        "img_shapes": [(1, *grid) for grid in packed.grids],
        "text_lengths": packed.text_lengths,
    }
    for change, message in (
        ({"text_lengths": packed.text_lengths[:-1]}, "6 grids and text_lengths 5"),
        ({"text_lengths": [1] * 6}, "encoder_hidden_states has shape"),
        ({"img_shapes": [(1, 2, 2)] * 6}, "hidden_states has shape"),
        ({"timestep": torch.rand(4)}, r"a scalar or \(6,\)"),
        ({"encoder_hidden_states_mask": torch.ones(1, 17, dtype=torch.bool)}, "cannot be combined with text_lengths"),
    ):
        with pytest.raises(ValueError, match=message):
            toy.transformer(**{**call, **change})
    with pytest.raises(ValueError, match="batches is empty"):
        pack([])
