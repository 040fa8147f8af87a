"""Toy weights in the layouts that other programs write, made by code of their own.

Every packed tensor is made from random codes, and its values are computed here by plain arithmetic on them, so what a
decoder must answer is known exactly.
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GptOssConfig

from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.models.transformer import LensTransformer2DModel

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float64)
SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>"]


def swizzle(matrix: np.ndarray) -> np.ndarray:
    """Row-major scales -> the order of cuBLAS, one scale at a time, padded with zeros to 128 x 4."""
    rows, columns = matrix.shape
    across = -(-columns // 4)
    flat = np.zeros(-(-rows // 128) * across * 512, dtype=matrix.dtype)
    for row in range(rows):
        for column in range(columns):
            tile = (row // 128) * across + column // 4
            flat[tile * 512 + (row % 32) * 16 + (row % 128 // 32) * 4 + column % 4] = matrix[row, column]
    return flat.reshape(-(-rows // 128) * 128, across * 4)


def mxfp4(shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(E, N, K) -> blocks, scales and the values (E, N, K) they stand for."""
    random = np.random.default_rng(seed)
    experts, rows, columns = shape
    codes = random.integers(0, 16, shape, dtype=np.uint8)
    scales = random.integers(120, 124, (experts, rows, columns // 32), dtype=np.uint8)
    values = E2M1[codes] * np.repeat(2.0 ** (scales.astype(np.float64) - 127), 32, axis=-1)
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).reshape(experts, rows, columns // 32, 16)
    return torch.from_numpy(blocks), torch.from_numpy(scales), torch.from_numpy(values)


def mxfp8(shape: tuple[int, int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K) -> weight, swizzled scales and values."""
    random = np.random.default_rng(seed)
    rows, columns = shape
    weight = torch.from_numpy(random.normal(size=shape)).to(torch.float8_e4m3fn)
    scales = random.integers(121, 125, (rows, columns // 32), dtype=np.uint8)
    values = weight.double() * torch.from_numpy(np.repeat(2.0 ** (scales.astype(np.float64) - 127), 32, axis=-1))
    return weight, torch.from_numpy(swizzle(scales)), values


def nvfp4(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(E, N, K) or (N, K) -> packed, swizzled block scales, tensor scales and values."""
    random = np.random.default_rng(seed)
    lead, (rows, columns) = shape[:-2], shape[-2:]
    codes = random.integers(0, 16, shape, dtype=np.uint8)
    block = torch.from_numpy(random.uniform(0.5, 2, (*lead, rows, columns // 16))).to(torch.float8_e4m3fn)
    whole = (2.0 ** random.integers(-6, -3, lead)).astype(np.float32)  # powers of two keep the products exact
    scale = np.repeat(block.double().numpy(), 16, axis=-1) * np.asarray(whole, dtype=np.float64)[..., None, None]
    packed = codes[..., 0::2] << 4 | codes[..., 1::2]
    raw = block.view(torch.uint8).numpy().reshape(-1, rows, columns // 16)
    swizzled = torch.from_numpy(np.stack([swizzle(one) for one in raw])).view(torch.float8_e4m3fn)
    swizzled = swizzled if lead else swizzled[0]
    return (
        torch.from_numpy(packed),
        swizzled,
        torch.from_numpy(np.asarray(whole)),
        torch.from_numpy(E2M1[codes] * scale),
    )


def marker(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def transformer() -> LensTransformer2DModel:
    """Two blocks of two heads on 64-wide text."""
    torch.manual_seed(1)
    return LensTransformer2DModel(num_layers=2, num_attention_heads=2, enc_hidden_dim=64, inner_dim=128).eval()


def encoder_config() -> GptOssConfig:
    return GptOssConfig(
        num_hidden_layers=4,
        num_local_experts=4,
        num_experts_per_tok=4,
        vocab_size=96,
        hidden_size=64,
        intermediate_size=64,
        head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=128,
        pad_token_id=1,
        eos_token_id=2,
    )


def encoder() -> LensGptOssEncoder:
    torch.manual_seed(2)
    model = LensGptOssEncoder(encoder_config(), lens_keep_head=True).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.1)
    return model


def vae() -> AutoencoderKLFlux2:
    torch.manual_seed(3)
    model = AutoencoderKLFlux2(block_out_channels=(32, 32, 64, 64), layers_per_block=1, sample_size=64).eval()
    model.bn.running_mean.normal_()
    model.bn.running_var.uniform_(0.5, 2)
    return model


def tokenizer_json() -> str:
    words = {word: index for index, word in enumerate([*SPECIALS, "[UNK]", "a", "red", "cube", "on", "the", "table"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer.to_str()


def write_comfy_transformer(path: Path, prefix: str = "") -> dict[str, Tensor]:
    state = transformer().state_dict()
    save_file({prefix + name: tensor for name, tensor in state.items()}, path)
    return state


def write_comfy_mxfp8(path: Path) -> dict[str, Tensor]:
    """Every linear weight of the blocks in MXFP8, all else bfloat16; gives back the values."""
    stored, values = {}, {}
    for seed, (name, tensor) in enumerate(transformer().state_dict().items()):
        if name.startswith("transformer_blocks.") and tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            stored[name], stored[f"{name}_scale"], values[name] = mxfp8(tuple(tensor.shape), seed)
            stored[f"{name.removesuffix('weight')}comfy_quant"] = marker('{"format": "mxfp8"}')
        else:
            stored[name] = values[name] = tensor.to(torch.bfloat16)
    save_file(stored, path)
    return values


def write_comfy_nvfp4_encoder(path: Path) -> dict[str, Tensor]:
    """ComfyUI's GPT-OSS: no `model.`, no head, experts (E, out, in) in NVFP4, the tokenizer inside."""
    stored, values = {"tokenizer_json": marker(tokenizer_json())}, {}
    for seed, (name, tensor) in enumerate(encoder().model.state_dict().items()):
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = tensor.shape
            packed, block, whole, dense = nvfp4((experts, outputs, inputs), seed)
            stored |= {f"{name}.weight": packed, f"{name}.weight_scale": block, f"{name}.weight_scale_2": whole}
            stored[f"{name}.comfy_quant"] = marker('{"format": "nvfp4"}')
            values[f"model.{name}"] = dense.transpose(1, 2)
        else:
            values[f"model.{name}"] = tensor.to(torch.bfloat16)
            stored[name.replace("proj_bias", "proj.bias")] = values[f"model.{name}"]
    save_file(stored, path)
    return values


def write_mxfp4_encoder(folder: Path, shards: bool = True) -> dict[str, Tensor]:
    """Stock GPT-OSS in MXFP4, weights and their scales in different shards, the head and the tokenizer included."""
    folder.mkdir(parents=True)
    stored, values = {}, {}
    for seed, (name, tensor) in enumerate(encoder().state_dict().items()):
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = tensor.shape
            stored[f"{name}_blocks"], stored[f"{name}_scales"], dense = mxfp4((experts, outputs, inputs), seed)
            values[name] = dense.transpose(1, 2)
        else:
            stored[name] = values[name] = tensor.to(torch.bfloat16)
    groups = [
        {name: tensor for name, tensor in stored.items() if name.endswith("_scales") is which}
        for which in (False, True)
    ]
    if shards:
        weight_map = {}
        for number, group in enumerate(groups):
            file = f"model-{number:05d}-of-00002.safetensors"
            save_file(group, folder / file)
            weight_map |= dict.fromkeys(group, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(stored, folder / "model.safetensors")
    quantised = {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"]}
    quantised["modules_to_not_convert"] += ["model.embed_tokens", "lm_head"]
    config = {**encoder_config().to_dict(), "architectures": ["GptOssForCausalLM"]}
    config["quantization_config"] = {"quant_method": "mxfp4", **quantised}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return values


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|return|>", "pad_token": "<|endoftext|>"}
    config = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1000000000000000019884624838656,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_bfl_vae(path: Path) -> dict[str, Tensor]:
    """The FLUX.2 autoencoder with Black Forest Labs' names, its attention as 1 x 1 convolutions."""
    state = vae().state_dict()
    stored = {}
    for name, tensor in state.items():
        if "attentions" in name and "group_norm" not in name and name.endswith("weight"):
            tensor = tensor[:, :, None, None]
        stored[bfl_name(name)] = tensor.clone()
    save_file(stored, path)
    return state


def bfl_name(name: str) -> str:
    for old, new in (
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
        ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
        ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
        (".downsamplers.0.", ".downsample."),
        (".upsamplers.0.", ".upsample."),
        (".resnets.", ".block."),
        ("down_blocks.", "down."),
    ):
        name = name.replace(old, new)
    for level in range(4):
        name = name.replace(f"up_blocks.{level}.", f"up.{3 - level}.")
    if name.startswith("quant_conv."):
        return f"encoder.{name}"
    return f"decoder.{name}" if name.startswith("post_quant_conv.") else name


def write_pipeline(folder: Path) -> None:
    """An official folder: MXFP4 text encoder, float32 transformer and autoencoder."""
    transformer().save_pretrained(folder / "transformer")
    vae().save_pretrained(folder / "vae")
    write_mxfp4_encoder(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": True})
    )
    index = {
        "_class_name": "LensPipeline",
        "_diffusers_version": "0.37.1",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
        "text_encoder": ["transformers", "LensGptOssEncoder"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "LensTransformer2DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))


def features(seed: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 5, 64, generator=generator) for _ in range(4)]


def velocity(model: LensTransformer2DModel) -> Tensor:
    """What a transformer answers to one fixed input, on a 3 x 4 grid."""
    latents = torch.randn(1, 12, 128, generator=torch.Generator().manual_seed(6)).to(model.dtype)
    text = [layer.to(model.dtype) for layer in features()]
    with torch.no_grad():
        return model(latents, text, None, torch.tensor([0.5]), [(1, 3, 4)])
