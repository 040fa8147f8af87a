"""Products in float8: near the plain ones, in the layers that bear it, refused where they cannot be."""

import pytest
import torch
from torch import nn

from leanlens.models.fp8 import FP8, LAYERS, Fp8Linear, compute_in_fp8, require_fp8
from leanlens.models.transformer import LensTransformer2DModel


def relative_error(got, expected) -> float:
    return ((got.float() - expected.float()).norm() / expected.float().norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_one_layer(dtype, bias):
    torch.manual_seed(0)
    plain = nn.Linear(64, 32, bias=bias).to(dtype).requires_grad_(False)
    x = torch.randn(2, 7, 64).to(dtype)
    x[0, 0] *= 1000  # a token that is far from the others has a scale of its own
    got = Fp8Linear(plain)(x)
    assert got.dtype == dtype
    assert got.shape == (2, 7, 32)
    for row in range(7):
        assert 0 < relative_error(got[:, row], plain(x)[:, row]) < 0.06
    assert Fp8Linear(plain)(x[:, :0]).shape == (2, 0, 32)


@pytest.mark.parametrize("text", [5, 0])
def test_a_transformer(text):
    torch.manual_seed(0)
    model = LensTransformer2DModel(num_layers=2, num_attention_heads=3, enc_hidden_dim=32, selected_layer_index=(0,))
    model = model.to(torch.bfloat16).eval().requires_grad_(False)
    inputs = {
        "hidden_states": torch.randn(1, 24, 128).bfloat16(),
        "encoder_hidden_states": [torch.randn(1, text, 32).bfloat16()],
        "timestep": torch.tensor([0.7]),
        "img_shapes": [(1, 4, 6)],
    }
    plain = model(**inputs)
    kept = {name for name, p in model.named_parameters() if not any(f".{layer}.weight" in name for layer in LAYERS)}
    assert compute_in_fp8(model) == 2 * len(LAYERS)
    assert {name for name, _ in model.named_parameters()} == kept
    assert {buffer.dtype for name, buffer in model.named_buffers() if name.endswith("weight")} == {FP8}
    assert 0 < relative_error(model(**inputs), plain) < 0.1


def test_what_does_not_fit_is_refused_whole():
    model = LensTransformer2DModel(num_layers=1, num_attention_heads=2, enc_hidden_dim=32, selected_layer_index=(0,))
    with pytest.raises(ValueError, match=r"img_mlp.w1 is 341 x 128, .*multiples of 16"):
        compute_in_fp8(model)
    assert not any(isinstance(module, Fp8Linear) for module in model.modules())
    with pytest.raises(ValueError, match="fp8 is not possible on mps"):
        require_fp8(torch.device("mps"))
