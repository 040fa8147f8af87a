"""What leanlens exports has the names that ComfyUI's native loaders look for, by their published rules.

A checkpoint is taken for Lens by three keys, its size is read from others; a LoRA's layers are looked up by names made
from the model's own keys, and what is not found is left out with a warning only.
"""

import re

import pytest
import torch
from safetensors.torch import load_file

from leanlens.models.transformer import LensTransformer2DModel
from leanlens.weights.assemble import convert
from leanlens.weights.lora import Lora, LowRank, write_lora


@pytest.fixture(scope="module")
def transformer() -> LensTransformer2DModel:
    torch.manual_seed(0)
    return LensTransformer2DModel(num_layers=2, num_attention_heads=2, enc_hidden_dim=48)


@pytest.fixture(scope="module")
def checkpoint(transformer, tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("export")
    transformer.save_pretrained(folder / "transformer")
    convert(folder / "transformer", folder / "lens.safetensors", to="comfy", dtype=torch.bfloat16)
    return load_file(folder / "lens.safetensors")


def test_a_checkpoint_is_taken_for_lens(checkpoint):
    assert {"img_in.weight", "proj_out.weight", "txt_norm.0.weight"} <= set(checkpoint)
    blocks = {int(match[1]) for key in checkpoint if (match := re.match(r"transformer_blocks\.(\d+)\.", key))}
    assert blocks == {0, 1}
    assert checkpoint["img_in.weight"].shape[0] // 64 == 2  # heads
    assert checkpoint["img_in.weight"].shape[1] == 128
    assert {tensor.dtype for tensor in checkpoint.values()} == {torch.bfloat16}


def native_parameters(layers: int, width: int, text: int, taken: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape in ComfyUI's own Lens model, as its source declares it; a loader leaves out any other key."""
    hidden = int(width / 3 * 8)

    def linear(name: str, wide: int, narrow: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (wide, narrow), **({f"{name}.bias": (wide,)} if bias else {})}

    found = {f"txt_norm.{index}.weight": (text,) for index in range(taken)}
    for name, wide, narrow in (
        ("img_in", width, 128), ("txt_in", width, text * taken), ("proj_out", 128, width),
        ("norm_out.linear", 2 * width, width), ("time_text_embed.timestep_embedder.linear_1", width, 256),
        ("time_text_embed.timestep_embedder.linear_2", width, width),
    ):  # fmt: skip
        found |= linear(name, wide, narrow)
    for block in (f"transformer_blocks.{index}" for index in range(layers)):
        for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            found[f"{block}.attn.{norm}.weight"] = (64,)
        for out in ("to_out.0", "to_add_out"):
            found |= linear(f"{block}.attn.{out}", width, width)
        for side in ("img", "txt"):
            found |= linear(f"{block}.attn.{side}_qkv", 3 * width, width)
            found |= linear(f"{block}.{side}_mod.1", 6 * width, width)
            found |= {f"{block}.{side}_norm{which}.weight": (width,) for which in (1, 2)}
            for gate, wide, narrow in (("w1", hidden, width), ("w2", width, hidden), ("w3", hidden, width)):
                found |= linear(f"{block}.{side}_mlp.{gate}", wide, narrow, bias=False)
    return found


def test_a_checkpoint_fills_the_native_model_and_nothing_is_left_over(checkpoint):
    ours = {name: tuple(tensor.shape) for name, tensor in checkpoint.items()}
    assert ours == native_parameters(layers=2, width=128, text=48, taken=4)


def names_in_comfyui(keys) -> dict[str, str]:
    """Name in a LoRA file -> key in the model, as ComfyUI makes them for a diffusion model."""
    stems = [key.removesuffix(".weight") for key in keys if key.endswith(".weight")]
    dotted = {f"diffusion_model.{stem}": f"{stem}.weight" for stem in stems}
    return dotted | {"lora_unet_" + stem.replace(".", "_"): f"{stem}.weight" for stem in stems}


@pytest.mark.parametrize(("style", "found"), [("comfy", True), ("kohya", True), ("peft", False)])
def test_every_layer_of_a_lora_is_found(transformer, checkpoint, tmp_path, style, found):
    linear = {name: one for name, one in transformer.named_modules() if isinstance(one, torch.nn.Linear)}
    pairs = {
        name: LowRank(torch.randn(2, one.in_features), torch.randn(one.out_features, 2), 3.0)
        for name, one in linear.items()
    }
    write_lora(tmp_path / "lora.safetensors", Lora(pairs, {}), style=style)
    stored = load_file(tmp_path / "lora.safetensors")
    known = names_in_comfyui(checkpoint)
    stems = {re.sub(r"\.(lora_[AB]|lora_(down|up))\.weight$|\.alpha$", "", key) for key in stored}
    assert len(stems) == len(linear)
    assert (stems <= set(known)) is found, "docs/lora.md says which styles load in ComfyUI"
    if not found:
        assert not stems & set(known)
        return
    for stem in stems:
        down = next(stored[stem + end] for end in (".lora_A.weight", ".lora_down.weight") if stem + end in stored)
        up = next(stored[stem + end] for end in (".lora_B.weight", ".lora_up.weight") if stem + end in stored)
        change = up @ down * (stored[f"{stem}.alpha"] / down.shape[0])  # without .alpha ComfyUI scales by 1
        pair = pairs[known[stem].removesuffix(".weight")]
        assert change.shape == checkpoint[known[stem]].shape
        assert torch.allclose(change, pair.b @ pair.a * 1.5)
