"""The denoiser itself: its weights, its numbers against formulas written out again, its inputs and its errors."""

import math

import pytest
import torch
from torch.nn import functional as F

from leanlens.models.transformer import MAX_TEXT_POSITION, LensTransformer2DModel

RELEASED_CONFIG = {
    "_class_name": "LensTransformer2DModel",
    "_diffusers_version": "0.37.1",
    "attention_head_dim": 64,
    "axes_dims_rope": [8, 28, 28],
    "enc_hidden_dim": 2880,
    "gate_mlp": True,
    "in_channels": 128,
    "inner_dim": 1536,
    "multi_layer_encoder_feature": True,
    "num_attention_heads": 24,
    "num_layers": 48,
    "out_channels": 32,
    "patch_size": 2,
    "rms_norm": True,
    "selected_layer_index": [5, 11, 17, 23],
}
TOY = {"num_layers": 2, "num_attention_heads": 2, "enc_hidden_dim": 32, "selected_layer_index": (0, 1)}


@pytest.fixture(scope="module")
def model() -> LensTransformer2DModel:
    torch.manual_seed(0)
    made = LensTransformer2DModel(**TOY).eval()
    for name, parameter in made.named_parameters():  # weights that start as ones would hide a norm that is not applied
        if "norm" in name and parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return made.requires_grad_(False)


def make_inputs(batch=1, grid=(4, 6), text=5, dtype=torch.float32, seed=1) -> dict:
    """Keyword arguments for `forward` with no mask; one seed, one image for any number of text tokens."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, grid[0] * grid[1], 128, generator=generator)
    features = [torch.randn(batch, text, 32, generator=generator).to(dtype) for _ in range(2)]
    return {
        "hidden_states": image.to(dtype),
        "encoder_hidden_states": features,
        "timestep": torch.linspace(0.7, 0.3, batch),
        "img_shapes": [(1, *grid)],
    }


def with_text(inputs: dict, keep: int) -> dict:
    return inputs | {"encoder_hidden_states": [layer[:, :keep] for layer in inputs["encoder_hidden_states"]]}


# The weights


def released_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the released checkpoints, written out from their description and not from this package."""
    width, text, hidden, packed = 1536, 2880, 4096, 128
    shapes = {
        "img_in.weight": (width, packed),
        "img_in.bias": (width,),
        "txt_in.weight": (width, 4 * text),
        "txt_in.bias": (width,),
        "time_text_embed.timestep_embedder.linear_1.weight": (width, 256),
        "time_text_embed.timestep_embedder.linear_1.bias": (width,),
        "time_text_embed.timestep_embedder.linear_2.weight": (width, width),
        "time_text_embed.timestep_embedder.linear_2.bias": (width,),
        "norm_out.linear.weight": (2 * width, width),
        "norm_out.linear.bias": (2 * width,),
        "proj_out.weight": (packed, width),
        "proj_out.bias": (packed,),
    }
    shapes |= {f"txt_norm.{layer}.weight": (text,) for layer in range(4)}
    for block in (f"transformer_blocks.{index}." for index in range(48)):
        shapes |= {f"{block}attn.{norm}.weight": (64,) for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k")}
        for stream, out in (("img", "to_out.0"), ("txt", "to_add_out")):
            shapes |= {
                f"{block}attn.{stream}_qkv.weight": (3 * width, width),
                f"{block}attn.{stream}_qkv.bias": (3 * width,),
                f"{block}attn.{out}.weight": (width, width),
                f"{block}attn.{out}.bias": (width,),
                f"{block}{stream}_mod.1.weight": (6 * width, width),
                f"{block}{stream}_mod.1.bias": (6 * width,),
                f"{block}{stream}_norm1.weight": (width,),
                f"{block}{stream}_norm2.weight": (width,),
                f"{block}{stream}_mlp.w1.weight": (hidden, width),
                f"{block}{stream}_mlp.w2.weight": (width, hidden),
                f"{block}{stream}_mlp.w3.weight": (hidden, width),
            }
    return shapes


def test_defaults_are_the_released_network():
    with torch.device("meta"):
        full = LensTransformer2DModel()
    built = {name: tuple(tensor.shape) for name, tensor in full.state_dict().items()}
    assert built == released_shapes()
    assert len(built) == 1264
    assert sum(parameter.numel() for parameter in full.parameters()) == 4_104_225_152


def test_released_config_file_opens_as_it_is():
    with torch.device("meta"):
        full = LensTransformer2DModel.from_config(RELEASED_CONFIG)
    unlike = {key for key in RELEASED_CONFIG if key[0] != "_" and _plain(full.config[key]) != RELEASED_CONFIG[key]}
    assert not unlike
    assert {name: tuple(tensor.shape) for name, tensor in full.state_dict().items()} == released_shapes()


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def test_saved_and_opened_model_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    opened, info = LensTransformer2DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["diffusion_pytorch_model.safetensors"]
    kept = model.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in opened.state_dict().items())
    torch.testing.assert_close(opened(**make_inputs()), model(**make_inputs()), rtol=0, atol=1e-5)


# The numbers


def reference_forward(weights: dict, inputs: dict, heads: int, layers: int) -> torch.Tensor:
    """The published network written a second time, with complex rotations and attention spelled out, in float64."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    height, width = inputs["img_shapes"][0][1:]

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def rms(x, name, eps=1e-6):
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"]

    def rotation(positions):  # one (frame, row, column) for each token -> (N, 32) unit complex numbers
        rows = []
        for position in positions:
            angles = []
            for dim, along in zip((8, 28, 28), position, strict=True):
                angles += [along * 10000 ** (-2 * j / dim) for j in range(dim // 2)]
            rows.append(angles)
        angle = torch.tensor(rows, dtype=torch.float64).reshape(-1, 32)
        return torch.polar(torch.ones_like(angle), angle)

    def rotate(x, by):  # (B, N, H, 64): neighbouring channels are one complex number
        turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * by[:, None]
        return torch.view_as_real(turned).flatten(-2)

    def mlp(x, name):
        return linear(F.silu(linear(x, f"{name}.w1")) * linear(x, f"{name}.w3"), f"{name}.w2")

    rows = [row - (height - height // 2) for row in range(height)]
    columns = [column - (width - width // 2) for column in range(width)]
    image_turn = rotation([(0, row, column) for row in rows for column in columns])
    start = max(height // 2, width // 2)
    text_tokens = inputs["encoder_hidden_states"][0].shape[1]
    text_turn = rotation([(start + n,) * 3 for n in range(text_tokens)])

    steps = inputs["timestep"].double()[:, None] * 1000
    angle = steps * torch.tensor([math.exp(-math.log(10000) * k / 128) for k in range(128)], dtype=torch.float64)
    temb = torch.cat([angle.cos(), angle.sin()], dim=-1)
    temb = linear(temb, "time_text_embed.timestep_embedder.linear_1")
    temb = linear(F.silu(temb), "time_text_embed.timestep_embedder.linear_2")

    image = linear(inputs["hidden_states"].double(), "img_in")
    features = [rms(f.double(), f"txt_norm.{i}", 1e-5) for i, f in enumerate(inputs["encoder_hidden_states"])]
    text = linear(torch.cat(features, -1), "txt_in")
    for index in range(layers):
        block = f"transformer_blocks.{index}"
        streams = {"img": image, "txt": text}
        mods = {s: linear(F.silu(temb), f"{block}.{s}_mod.1")[:, None].chunk(6, -1) for s in streams}
        qkv = {}
        for s, turn, norms in (
            ("img", image_turn, ("norm_q", "norm_k")),
            ("txt", text_turn, ("norm_added_q", "norm_added_k")),
        ):
            shift, scale = mods[s][:2]
            x = linear(rms(streams[s], f"{block}.{s}_norm1") * (1 + scale) + shift, f"{block}.attn.{s}_qkv")
            q, k, v = (part.unflatten(-1, (heads, 64)) for part in x.chunk(3, -1))
            qkv[s] = (
                rotate(rms(q, f"{block}.attn.{norms[0]}"), turn),
                rotate(rms(k, f"{block}.attn.{norms[1]}"), turn),
                v,
            )
        q, k, v = (torch.cat(pair, 1).transpose(1, 2) for pair in zip(qkv["img"], qkv["txt"], strict=True))
        joint = ((q @ k.transpose(-1, -2) / 8).softmax(-1) @ v).transpose(1, 2).flatten(2)
        parts = joint.split([image.shape[1], text_tokens], 1)
        for s, part, out in (("img", parts[0], "to_out.0"), ("txt", parts[1], "to_add_out")):
            gate1, shift2, scale2, gate2 = mods[s][2:]
            x = streams[s] + gate1 * linear(part, f"{block}.attn.{out}")
            streams[s] = x + gate2 * mlp(rms(x, f"{block}.{s}_norm2") * (1 + scale2) + shift2, f"{block}.{s}_mlp")
        image, text = streams["img"], streams["txt"]
    scale, shift = linear(F.silu(temb), "norm_out.linear")[:, None].chunk(2, -1)
    return linear(F.layer_norm(image, image.shape[-1:], eps=1e-6) * (1 + scale) + shift, "proj_out")


@pytest.mark.parametrize(("grid", "text"), [((4, 6), 5), ((5, 3), 7), ((1, 1), 1), ((4, 4), 0)])
def test_velocity_equals_the_formulas(model, grid, text):
    inputs = make_inputs(batch=2, grid=grid, text=text)
    expected = reference_forward(model.state_dict(), inputs, heads=2, layers=2)
    torch.testing.assert_close(model(**inputs).double(), expected, rtol=1e-4, atol=2e-5)


def test_batch_equals_one_by_one(model):
    inputs = make_inputs(batch=3)
    singles = []
    for i in range(3):
        one = {key: value[i : i + 1] for key, value in inputs.items() if key in ("hidden_states", "timestep")}
        features = [layer[i : i + 1] for layer in inputs["encoder_hidden_states"]]
        singles.append(model(**one, encoder_hidden_states=features, img_shapes=inputs["img_shapes"]))
    torch.testing.assert_close(model(**inputs), torch.cat(singles), rtol=0, atol=1e-5)


def test_no_text_equals_text_that_is_all_masked(model):
    inputs = make_inputs(batch=2)
    masked = model(**inputs, encoder_hidden_states_mask=torch.zeros(2, 5, dtype=torch.bool))
    torch.testing.assert_close(model(**with_text(inputs, 0)), masked, rtol=0, atol=1e-5)
    empty_mask = torch.zeros(2, 0, dtype=torch.bool)
    torch.testing.assert_close(
        model(**with_text(inputs, 0), encoder_hidden_states_mask=empty_mask), masked, rtol=0, atol=1e-5
    )
    assert (masked - model(**inputs)).abs().max() > 1e-3  # the text does matter


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_masked_padding_equals_dropped_padding(model, dtype):
    inputs = make_inputs()
    mask = torch.tensor([[1, 1, 1, 0, 0]]).to(dtype)
    masked = model(**inputs, encoder_hidden_states_mask=mask)
    torch.testing.assert_close(masked, model(**with_text(inputs, 3)), rtol=0, atol=1e-5)
    whole = model(**inputs, encoder_hidden_states_mask=torch.ones(1, 5, dtype=dtype))
    torch.testing.assert_close(whole, model(**inputs), rtol=0, atol=1e-5)
    assert (masked - whole).abs().max() > 1e-3


def test_each_sample_has_its_own_mask(model):
    inputs = make_inputs(batch=2)
    lengths = torch.tensor([5, 2])
    together = model(**inputs, encoder_hidden_states_mask=torch.arange(5)[None] < lengths[:, None])
    for i, length in enumerate(lengths.tolist()):
        one = {
            "hidden_states": inputs["hidden_states"][i : i + 1],
            "encoder_hidden_states": [layer[i : i + 1, :length] for layer in inputs["encoder_hidden_states"]],
            "timestep": inputs["timestep"][i : i + 1],
            "img_shapes": inputs["img_shapes"],
        }
        torch.testing.assert_close(together[i : i + 1], model(**one), rtol=0, atol=1e-5)


# Packing


PACKED = [((4, 6), 5, 0.9), ((5, 3), 0, 0.2), ((2, 2), 7, 0.5)]


def make_packed() -> tuple[list[dict], dict]:
    """Three samples of their own sizes and noise levels, and the same three in one row."""
    singles = [
        make_inputs(grid=grid, text=text, seed=seed) | {"timestep": torch.tensor([level])}
        for seed, (grid, text, level) in enumerate(PACKED)
    ]
    row = {
        "hidden_states": torch.cat([one["hidden_states"] for one in singles], dim=1),
        "encoder_hidden_states": [torch.cat([one["encoder_hidden_states"][i] for one in singles], 1) for i in range(2)],
        "timestep": torch.cat([one["timestep"] for one in singles]),
        "img_shapes": [one["img_shapes"][0] for one in singles],
        "text_lengths": [text for _, text, _ in PACKED],
    }
    return singles, row


def test_packed_row_equals_single_calls(model):
    singles, row = make_packed()
    expected = torch.cat([model(**one) for one in singles], dim=1)
    torch.testing.assert_close(model(**row), expected, rtol=0, atol=1e-5)
    level = torch.tensor(0.3)  # one for all
    expected = torch.cat([model(**one | {"timestep": level}) for one in singles], dim=1)
    torch.testing.assert_close(model(**row | {"timestep": level}), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_row_gives_the_gradients_of_single_calls(checkpointing):
    torch.manual_seed(0)
    made = LensTransformer2DModel(**TOY)
    if checkpointing:
        made.enable_gradient_checkpointing()
    singles, row = make_packed()
    sum(made(**one).square().sum() for one in singles).backward()
    apart = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()
    made(**row).square().sum().backward()
    for name, gradient in apart.items():
        torch.testing.assert_close(made.get_parameter(name).grad, gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_hidden_states_mask": torch.ones(1, 12, dtype=torch.bool)}, "cannot be combined with text_lengths"),
        ({"text_lengths": [5, 7], "timestep": torch.tensor(0.5)}, "img_shapes has 3 grids and text_lengths 2 lengths"),
        ({"text_lengths": [5, 1, 7]}, r"encoder_hidden_states has shape \(1, 12, 32\).*need \(1, 13, channels\)"),
        ({"img_shapes": [(1, 4, 6), (1, 5, 3), (1, 2, 3)]}, r"hidden_states has shape \(1, 43, 128\).*need \(1, 45"),
        ({"img_shapes": [(1, 4, 6), (2, 5, 3), (1, 2, 2)]}, r"invalid img_shapes .*: expected \(1, h, w\)"),
        ({"img_shapes": [[(1, 4, 6)], [(1, 5, 3)], [(1, 2, 2)]]}, r"invalid img_shapes .*: expected \(1, h, w\)"),
        ({"timestep": torch.zeros(2)}, r"timestep has shape \(2,\); expected a scalar or \(3,\)"),
    ],
)
def test_wrong_packings_are_named(model, change, message):
    with pytest.raises(ValueError, match=message):
        model(**make_packed()[1] | change)


# Input and output forms


def test_return_forms(model):
    inputs = make_inputs()
    velocity = model(**inputs)
    assert torch.is_tensor(velocity)
    as_tuple = model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == 1
    assert torch.equal(as_tuple[0], velocity)
    assert torch.equal(model(**inputs, return_dict=True).sample, velocity)


def test_timestep_may_be_a_scalar(model):
    inputs = make_inputs(batch=2)
    whole = model(**inputs | {"timestep": torch.full((2,), 0.4)})
    assert torch.equal(model(**inputs | {"timestep": torch.tensor(0.4)}), whole)
    assert torch.equal(model(**inputs | {"timestep": torch.tensor([0.4])}), whole)


@pytest.mark.parametrize("shapes", [[(1, 4, 6)], [[1, 4, 6]], [[(1, 4, 6)], [(1, 4, 6)]], [(1, 4, 6), (1, 4, 6)]])
def test_grid_may_be_written_once_or_for_each_sample(model, shapes):
    inputs = make_inputs(batch=2)
    assert torch.equal(model(**inputs | {"img_shapes": shapes}), model(**inputs))


def test_bfloat16_is_near_float32(model):
    inputs = make_inputs(batch=2)
    low = LensTransformer2DModel(**TOY).to(torch.bfloat16)
    low.load_state_dict(model.state_dict())
    with torch.no_grad():
        velocity = low(**make_inputs(batch=2, dtype=torch.bfloat16))
    assert velocity.dtype == torch.bfloat16
    assert _relative_error(velocity, model(**inputs)) < 0.03


def test_float16_residuals_are_clipped():
    """One channel is driven to 120,000, which float16 cannot hold: it stays at 65,504 and the rest stays finite."""
    torch.manual_seed(0)
    full = LensTransformer2DModel(**TOY).requires_grad_(False)
    full.img_in.bias[0] = full.transformer_blocks[0].attn.to_out[0].bias[0] = 60_000
    full.transformer_blocks[0].img_mod[1].bias[2 * 128] = 1  # the attention gate of that channel
    full.transformer_blocks[0].img_mod[1].weight[2 * 128] = 0
    half = LensTransformer2DModel(**TOY).half().requires_grad_(False)
    half.load_state_dict(full.state_dict())
    residuals = []
    for made in (full, half):
        made.transformer_blocks[0].register_forward_hook(lambda block, args, out: residuals.append(out[1]))
    full(**make_inputs())
    velocity = half(**make_inputs(dtype=torch.float16))
    assert residuals[0].abs().max() > 100_000
    assert residuals[1].abs().max() == 65_504
    assert velocity.isfinite().all()


def test_tables_made_in_inference_mode_serve_training():
    torch.manual_seed(0)
    made = LensTransformer2DModel(**TOY)
    inputs = make_inputs(grid=(3, 7), text=9)  # a size that no other test has put into the cache
    with torch.inference_mode():
        velocity = made(**inputs)
    trained = made(**inputs)
    trained.square().mean().backward()
    assert torch.equal(trained, velocity)
    silent = {name for name, parameter in made.named_parameters() if parameter.grad is None}
    last = "transformer_blocks.1."  # the text stream of the last block feeds nothing after its attention
    unread = ["attn.to_add_out.weight", "attn.to_add_out.bias", "txt_norm2.weight"]
    unread += ["txt_mlp.w1.weight", "txt_mlp.w2.weight", "txt_mlp.w3.weight"]
    assert silent == {last + name for name in unread}


def _relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got.float() - expected.float()).norm() / expected.float().norm()).item()


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestep": None}, "timestep and img_shapes are required"),
        ({"img_shapes": None}, "timestep and img_shapes are required"),
        ({"hidden_states": torch.zeros(24, 128)}, r"hidden_states has shape \(24, 128\)"),
        ({"hidden_states": torch.zeros(2, 24, 64)}, r"hidden_states has shape \(2, 24, 64\).*128"),
        ({"encoder_hidden_states": [torch.zeros(2, 5, 32)]}, "has 1 layers; this model takes 2"),
        ({"encoder_hidden_states": [torch.zeros(2, 5, 31)] * 2}, r"shape \(2, 5, 31\)"),
        ({"encoder_hidden_states": [torch.zeros(1, 5, 32)] * 2}, r"shape \(1, 5, 32\)"),
        ({"encoder_hidden_states": [torch.zeros(5, 32)] * 2}, r"shape \(5, 32\)"),
        ({"encoder_hidden_states": [torch.zeros(2, 5, 32), torch.zeros(2, 4, 32)]}, r"shape \(2, 4, 32\)"),
        (
            {"encoder_hidden_states_mask": torch.ones(2, 4, dtype=torch.bool)},
            r"mask has shape \(2, 4\); expected \(2, 5\)",
        ),
        ({"encoder_hidden_states_mask": torch.zeros(2, 5)}, "mask has dtype torch.float32"),
        ({"timestep": torch.zeros(3)}, r"timestep has shape \(3,\); expected a scalar or \(2,\)"),
        ({"timestep": torch.zeros(2, 1)}, r"timestep has shape \(2, 1\)"),
        ({"img_shapes": [(1, 4, 5)]}, "does not fit hidden_states with 24 tokens"),
        ({"img_shapes": [(2, 4, 3)]}, "does not fit hidden_states with 24 tokens"),
        ({"img_shapes": [(4, 6)]}, r"expected \[\(1, h, w\)\]"),
        ({"img_shapes": [(1, 4, 6), (1, 6, 4)]}, "one grid for the whole batch"),
        ({"img_shapes": []}, "one grid for the whole batch"),
    ],
)
def test_wrong_inputs_are_named(model, change, message):
    with pytest.raises(ValueError, match=message):
        model(**make_inputs(batch=2) | change)


def test_text_past_the_last_position_is_refused(model):
    inputs = make_inputs(grid=(4, 6), text=MAX_TEXT_POSITION - 2)
    with pytest.raises(ValueError, match=r"the limit for this size is 4093"):
        model(**inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"axes_dims_rope": (8, 28, 20)},
            r"axes_dims_rope \[8, 28, 20\] must be even and sum to attention_head_dim 64",
        ),
        ({"axes_dims_rope": (9, 27, 28)}, "must be even"),
        ({"attention_head_dim": 32}, "attention_head_dim 32"),
        ({"gate_mlp": False}, "gate_mlp false"),
        ({"rms_norm": False}, "rms_norm false"),
        ({"multi_layer_encoder_feature": False}, "multi_layer_encoder_feature false"),
        ({"in_channels": 64}, r"in_channels 64 must equal .* 128"),
        ({"selected_layer_index": ()}, "selected_layer_index is empty"),
    ],
)
def test_wrong_configs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        LensTransformer2DModel(**TOY | change)
