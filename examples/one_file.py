"""Lens in one file: from a prompt to a PNG, on torch, safetensors and tokenizers alone.

    python examples/one_file.py "a penguin to the left of a pink cupcake" [out.png] [seed]

It draws with the embedded nano (`leanlens/nano`, 55 million parameters), and the image is that of `LensPipeline` within
one level of 255. Read it from top to bottom: `draw` is the whole of it, and what it calls follows. The transformer is
also that of the 4-billion-parameter Lens, whose configuration has 48 blocks and 24 heads; the text encoder of that one,
GPT-OSS, is not here. The library adds rewritten and negative prompts, batches, memory placement, caches, adapters and
training.

A network here is a function of its tensors: `linear(w["img_in"], x)` multiplies by the tensor `img_in.weight` of the
files and adds `img_in.bias`.

Shapes: B images (1 here), L = h * w image tokens, each 16 x 16 pixels, S text tokens (0 without a prompt),
C = 4 z channels of an image token, z channels of a latent, E width of the text encoder, D width of the transformer,
H heads, K channels of a head. Nano: z 16, C 64, E 384, D 320, H 5, K 64.

Source where none is stated: Lens, arXiv 2605.21573, section 3; where paper and released code differ, the code.
"""

import argparse
import json
import math
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

NANO = Path(__file__).parents[1] / "leanlens" / "nano"
TOKEN_PIXELS = 16  # the autoencoder halves the side three times, and 2 x 2 latents make a token
MAX_TEXT_TOKENS = 512


@torch.inference_mode()
def draw(
    prompt: str,
    seed: int = 0,
    height: int = 256,
    width: int = 256,
    steps: int = 20,
    guidance: float = 2.0,
    dtype: torch.dtype = torch.float32,
    folder: Path = NANO,
) -> Tensor:
    """The image of a prompt, (height, width, 3) uint8.

    Args:
        seed: of the noise that the drawing starts from.
        height, width: pixels, multiples of 16.
        steps: denoising steps, each two calls of the transformer, or one at guidance 1.
        guidance: how far to move from "no prompt" towards the prompt; 1 follows the model as it is.
        dtype: float32, or bfloat16, which takes half the memory and gives a slightly different image.
        folder: a model folder whose text encoder is a BERT.
    """
    if height % TOKEN_PIXELS or width % TOKEN_PIXELS or min(height, width, steps) < 1:
        raise ValueError(f"invalid size {width}x{height} or steps {steps}: expected multiples of 16, and 1 or more")
    config, transformer = load(folder / "transformer", dtype)
    features = text_features(folder, prompt, config["selected_layer_index"], dtype)  # 3 of (B, S, E)
    no_text = [layer[:, :0] for layer in features]  # Lens learnt "no prompt" as no text tokens at all
    grid = (height // TOKEN_PIXELS, width // TOKEN_PIXELS)
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, grid[0] * grid[1], config["in_channels"], generator=generator, dtype=dtype)  # (B, L, C)

    sigmas = noise_levels(grid[0] * grid[1], steps)
    for sigma, next_sigma in pairwise(sigmas):
        # The released code rounds the level as thousandths, which bfloat16 shows: 0.99419 becomes 0.996.
        t = (sigma * 1000).to(dtype) / 1000
        velocity = predict_velocity(config, transformer, latents, features, t, grid)
        if guidance != 1:
            unconditional = predict_velocity(config, transformer, latents, no_text, t, grid)
            velocity = guided(velocity, unconditional, guidance)
        # An Euler step along the straight path from noise to image, dx/dt = v (flow matching, arXiv 2210.02747).
        latents = (latents.float() + (next_sigma - sigma) * velocity).to(dtype)

    pixels = decode(folder / "vae", latents, grid)  # (B, 3, height, width) in -1..1
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5)[0].permute(1, 2, 0).to(torch.uint8)  # cut off, not rounded


# --- The path from noise to image -------------------------------------------------------------------------------------


def noise_levels(tokens: int, steps: int) -> Tensor:
    """Levels sigma of the drawing, from 1, which is noise, down to 0, which is the image: (steps + 1,).

        x_sigma = (1 - sigma) image + sigma noise          velocity = noise - image
        sigma = e^mu / (e^mu + 1 / u - 1)                  u = 1, 1 - 1/steps, ..., 1/steps

    A large image shows through more noise than a small one, so mu grows with the number of tokens and shifts the levels
    towards noise (arXiv 2403.03206, section 5.3.2). It is an empirical line in `tokens` for 10 steps and another for
    200, interpolated in `steps`; the released code shares it with FLUX.2.
    """
    mu = mu_at_200 = 0.00016927 * tokens + 0.45666666
    if tokens <= 4300:
        mu_at_10 = 8.73809524e-05 * tokens + 1.89833333
        slope = (mu_at_200 - mu_at_10) / 190
        mu = slope * steps + (mu_at_200 - 200 * slope)
    u = torch.tensor([1 - step / steps for step in range(steps)])
    return torch.cat([math.exp(mu) / (math.exp(mu) + (1 / u - 1)), torch.zeros(1)])


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598), rescaled for each token to the length of `conditional`: (B, L, C).

    An extrapolated velocity is mostly too long, which oversaturates colours; so its direction alone is kept.
    """
    combined = unconditional + scale * (conditional - unconditional)
    target = torch.linalg.vector_norm(conditional, dim=-1, keepdim=True)  # (B, L, 1)
    length = torch.linalg.vector_norm(combined, dim=-1, keepdim=True)
    return combined * torch.where(length > 0, target / length.clamp_min(1e-12), 1)


# --- The transformer --------------------------------------------------------------------------------------------------


def predict_velocity(
    config: dict, w: "Weights", latents: Tensor, features: list[Tensor], t: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Latents (B, L, C) at the level t, a number in 0..1, and text features (B, S, E) -> velocity (B, L, C)."""
    image = linear(w["img_in"], latents)  # (B, L, D)
    # Several layers of the text encoder, side by side, each with a norm of its own.
    layers = [rms_norm(w[f"txt_norm.{index}"], layer, 1e-5) for index, layer in enumerate(features)]
    text = linear(w["txt_in"], torch.cat(layers, dim=-1))  # (B, S, D)
    level = level_embedding(w["time_text_embed.timestep_embedder"], t, latents.dtype)  # (1, D)
    rotary = rotary_angles(config["axes_dims_rope"], grid, text.shape[1])  # (L, K / 2) and (S, K / 2)
    for index in range(config["num_layers"]):
        image, text = block(w[f"transformer_blocks.{index}"], image, text, level, rotary)
    scale, shift = linear(w["norm_out.linear"], F.silu(level)).unsqueeze(1).chunk(2, dim=-1)  # (1, 1, D) each
    image = F.layer_norm(image, image.shape[-1:], eps=1e-6) * (1 + scale) + shift
    return linear(w["proj_out"], image)  # (B, L, C)


def block(
    w: "Weights", image: Tensor, text: Tensor, level: Tensor, rotary: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """A double-stream block: image and text have weights of their own, and meet in one attention.

    Image (B, L, D), text (B, S, D), level (1, D) -> image, text. (MM-DiT, arXiv 2403.03206, section 4; the level
    modulates as in DiT, arXiv 2212.09748.)
    """
    # Shift, scale and gate of the attention, then those of the MLP: 6 of (1, 1, D) for each stream.
    i = linear(w["img_mod.1"], F.silu(level)).unsqueeze(1).chunk(6, dim=-1)
    t = linear(w["txt_mod.1"], F.silu(level)).unsqueeze(1).chunk(6, dim=-1)
    image_in = rms_norm(w["img_norm1"], image) * (1 + i[1]) + i[0]
    text_in = rms_norm(w["txt_norm1"], text) * (1 + t[1]) + t[0]
    image_out, text_out = attention(w["attn"], image_in, text_in, rotary)
    image, text = image + i[2] * image_out, text + t[2] * text_out
    image = image + i[5] * gated_mlp(w["img_mlp"], rms_norm(w["img_norm2"], image) * (1 + i[4]) + i[3])
    text = text + t[5] * gated_mlp(w["txt_mlp"], rms_norm(w["txt_norm2"], text) * (1 + t[4]) + t[3])
    return image, text


def attention(w: "Weights", image: Tensor, text: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Every image and text token attends to all of both: (B, L, D), (B, S, D) -> the same shapes.

    softmax(q k / sqrt(K)) v for each head (arXiv 1706.03762). Normalised q and k keep the softmax from saturating
    (arXiv 2302.05442); turning them by the token's position tells the heads how far apart two tokens are.
    """
    streams = []
    for x, name, q_norm, k_norm, angles in (
        (image, "img_qkv", "norm_q", "norm_k", rotary[0]),
        (text, "txt_qkv", "norm_added_q", "norm_added_k", rotary[1]),
    ):
        channels = w[q_norm].weight.shape[0]  # K
        q, k, v = linear(w[name], x).unflatten(-1, (3, -1, channels)).unbind(2)  # (B, L or S, H, K) each
        streams.append((rotate(rms_norm(w[q_norm], q), angles), rotate(rms_norm(w[k_norm], k), angles), v))
    q, k, v = (torch.cat(pair, dim=1).transpose(1, 2) for pair in zip(*streams, strict=True))  # (B, H, L + S, K)
    joint = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, L + S, D)
    tokens = image.shape[1]
    return linear(w["to_out.0"], joint[:, :tokens]), linear(w["to_add_out"], joint[:, tokens:])


def gated_mlp(w: "Weights", x: Tensor) -> Tensor:
    """SwiGLU (arXiv 2002.05202): (B, L, D) -> (B, L, D), 8/3 D channels in between."""
    return linear(w["w2"], F.silu(linear(w["w1"], x)) * linear(w["w3"], x))


def level_embedding(w: "Weights", t: Tensor, dtype: torch.dtype) -> Tensor:
    """The level as 128 cosines and 128 sines of 1000 t (arXiv 1706.03762), then a small MLP: (1, D)."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    angles = 1000 * (t.float() * frequencies)[None]  # (1, 128)
    waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)
    return linear(w["linear_2"], F.silu(linear(w["linear_1"], waves)))


def rotary_angles(axes: list[int], grid: tuple[int, int], text_tokens: int) -> tuple[Tensor, Tensor]:
    """Angles of both streams, (L, K / 2) and (S, K / 2): position * 10000^(-2 j / channels) on each axis.

    `axes` shares out K channels to frame (always 0), row and column. Rows and columns count from the centre of the
    image, so that sizes share their middle; text goes on after the edge, on all axes alike. (RoPE, arXiv 2104.09864.)
    """
    height, width = grid
    row = torch.arange(height) - (height - height // 2)
    column = torch.arange(width) - (width - width // 2)
    text = torch.arange(text_tokens) + max(height // 2, width // 2)
    image_positions = (torch.zeros(height * width), row.repeat_interleave(width), column.repeat(height))
    tables = []
    for positions in (image_positions, (text, text, text)):
        angles = []
        for channels, position in zip(axes, positions, strict=True):
            exponents = torch.arange(0, channels, 2, dtype=torch.float32) / channels
            angles.append(torch.outer(position.float(), 1 / 10000**exponents))
        tables.append(torch.cat(angles, dim=-1))
    return tables[0], tables[1]


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels by its angle, in float32: (B, L, H, K), (L, K / 2) -> (B, L, H, K)."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # (L, 1, K / 2)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B, L, H, K / 2) each
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


# --- The text encoder -------------------------------------------------------------------------------------------------


def text_features(folder: Path, prompt: str, layers: list[int], dtype: torch.dtype) -> list[Tensor]:
    """The prompt as it is, [CLS] before and [SEP] after it -> (B, S, E) after each of `layers`, counted from 0.

    BERT (arXiv 1810.04805), of which nano keeps the first four layers.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    tokenizer.no_padding()  # the file asks for 128 tokens exactly
    tokenizer.no_truncation()
    ids = torch.tensor([tokenizer.encode(prompt).ids[:MAX_TEXT_TOKENS]])  # (B, S)

    config, w = load(folder / "text_encoder", dtype)
    eps, table = config["layer_norm_eps"], w["embeddings"]
    # The second table tells the two sentences of a pair apart; all of a prompt is the first.
    x = table["word_embeddings"].weight[ids] + table["token_type_embeddings"].weight[0]
    x = layer_norm(table["LayerNorm"], x + table["position_embeddings"].weight[: ids.shape[1]], eps)  # (B, S, E)
    features = []
    for index in range(max(layers) + 1):
        x = bert_layer(w[f"encoder.layer.{index}"], x, config["num_attention_heads"], eps)
        features.append(x)
    return [features[index] for index in layers]


def bert_layer(w: "Weights", x: Tensor, heads: int, eps: float) -> Tensor:
    """Attention in both directions, then an MLP, each added to what came in and normalised: (B, S, E) -> (B, S, E)."""
    parts = (linear(w[f"attention.self.{part}"], x) for part in ("query", "key", "value"))
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)  # (B, heads, S, E / heads)
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, S, E)
    x = layer_norm(w["attention.output.LayerNorm"], linear(w["attention.output.dense"], mixed) + x, eps)
    hidden = F.gelu(linear(w["intermediate.dense"], x))  # (B, S, 4 E)
    return layer_norm(w["output.LayerNorm"], linear(w["output.dense"], hidden) + x, eps)


# --- The decoder of the autoencoder -----------------------------------------------------------------------------------


def decode(folder: Path, latents: Tensor, grid: tuple[int, int]) -> Tensor:
    """Normalised packed latents (B, L, C) -> pixels (B, 3, 16 h, 16 w), about -1..1.

    The decoder of FLUX.2's autoencoder, that of latent diffusion (arXiv 2112.10752): residual convolutions, one
    attention at the smallest size, and three times a doubling of the side.
    """
    config, w = load(folder, latents.dtype)  # the encoder's tensors stay unused
    groups, stages = config["norm_num_groups"], len(config["up_block_types"])
    # The transformer learnt latents of mean 0 and deviation 1; the statistics are kept as those of a batch norm.
    mean, variance = w["bn"].tensor("running_mean"), w["bn"].tensor("running_var")  # (C,) each
    x = latents * torch.sqrt(variance + config["batch_norm_eps"]) + mean
    # A token's C channels are (z, row in the patch, column in the patch).
    x = x.unflatten(1, grid).unflatten(-1, (-1, 2, 2)).permute(0, 3, 1, 4, 2, 5)  # (B, z, h, 2, w, 2)
    x = x.flatten(4).flatten(2, 3)  # (B, z, 2 h, 2 w)
    x = conv(w["decoder.conv_in"], conv(w["post_quant_conv"], x))
    middle = w["decoder.mid_block"]
    x = residual_block(middle["resnets.0"], x, groups)
    x = pixel_attention(middle["attentions.0"], x, groups)
    x = residual_block(middle["resnets.1"], x, groups)
    for stage in range(stages):
        up = w[f"decoder.up_blocks.{stage}"]
        for index in range(config["layers_per_block"] + 1):
            x = residual_block(up[f"resnets.{index}"], x, groups)
        if stage < stages - 1:  # the last stage has the full size already
            x = conv(up["upsamplers.0.conv"], F.interpolate(x, scale_factor=2.0, mode="nearest"))
    x = F.silu(group_norm(w["decoder.conv_norm_out"], x, groups))
    return conv(w["decoder.conv_out"], x)


def residual_block(w: "Weights", x: Tensor, groups: int) -> Tensor:
    """Two convolutions, added to what came in: (B, in, h, w) -> (B, out, h, w). (ResNet, arXiv 1512.03385.)"""
    out = conv(w["conv1"], F.silu(group_norm(w["norm1"], x, groups)))
    out = conv(w["conv2"], F.silu(group_norm(w["norm2"], out, groups)))
    return (conv(w["conv_shortcut"], x) if "conv_shortcut" in w else x) + out


def pixel_attention(w: "Weights", x: Tensor, groups: int) -> Tensor:
    """Every position attends to all, with a single head; added to what came in: (B, c, h, w) -> (B, c, h, w)."""
    rows = group_norm(w["group_norm"], x.flatten(2), groups).transpose(1, 2)  # (B, h * w, c)
    q, k, v = (linear(w[name], rows)[:, None] for name in ("to_q", "to_k", "to_v"))  # (B, 1, h * w, c)
    mixed = linear(w["to_out.0"], F.scaled_dot_product_attention(q, k, v)[:, 0])
    return mixed.transpose(1, 2).reshape(x.shape) + x


# --- Weights and layers -----------------------------------------------------------------------------------------------


class Weights:
    """Tensors by their names in the files; `w["a.b"]` is everything whose name starts with `a.b.`."""

    def __init__(self, tensors: dict[str, Tensor], prefix: str = ""):
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name: str) -> "Weights":
        return Weights(self.tensors, f"{self.prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        return f"{self.prefix}{name}.weight" in self.tensors

    def tensor(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    @property
    def weight(self) -> Tensor:
        return self.tensor("weight")

    @property
    def bias(self) -> Tensor | None:
        return self.tensors.get(f"{self.prefix}bias")


def load(folder: Path, dtype: torch.dtype) -> tuple[dict, Weights]:
    """The configuration and the tensors of a model, decoded to `dtype`.

    Nano's files hold the transformer's matrices as INT8 with a float32 scale for each row (value = code * scale), those
    of the text encoder as float8 (E4M3, arXiv 2209.05433, no scale), the rest in 16 bits.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        stored |= load_file(file)
    tensors = {}
    for name, tensor in stored.items():
        if f"{name}_scale" in stored:
            tensor = tensor.float() * stored[f"{name}_scale"]  # (N, K) times (N, 1)
        if not name.endswith(("_scale", "comfy_quant")):  # the latter tells other programs of the INT8
            tensors[name] = tensor.to(dtype)
    return config, Weights(tensors)


def linear(w: Weights, x: Tensor) -> Tensor:
    """x W^T + b: (..., in) -> (..., out)."""
    return F.linear(x, w.weight, w.bias)


def conv(w: Weights, x: Tensor) -> Tensor:
    """A convolution that keeps the size: (B, in, h, w) -> (B, out, h, w)."""
    return F.conv2d(x, w.weight, w.bias, padding=w.weight.shape[-1] // 2)


def rms_norm(w: Weights, x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, the division in float32 (arXiv 1910.07467)."""
    normed = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * w.weight


def layer_norm(w: Weights, x: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (arXiv 1607.06450)."""
    return F.layer_norm(x, x.shape[-1:], w.weight, w.bias, eps)


def group_norm(w: Weights, x: Tensor, groups: int) -> Tensor:
    """As `layer_norm`, over groups of channels and all positions of (B, c, ...) (arXiv 1803.08494)."""
    return F.group_norm(x, groups, w.weight, w.bias, 1e-6)


# --- The file and the command -----------------------------------------------------------------------------------------


def png(image: Tensor) -> bytes:
    """(H, W, 3) uint8 -> the bytes of a PNG file (W3C PNG, third edition)."""
    height, width, _ = image.shape
    rows = F.pad(image.flatten(1), (1, 0))  # a 0 before each row: its bytes are stored without a filter

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a channel, 2 for RGB
    body = zlib.compress(bytes(rows.flatten().tolist()))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a prompt with the embedded model.")
    parser.add_argument("prompt")
    parser.add_argument("out", nargs="?", default="out.png", type=Path, help="PNG file to write (%(default)s)")
    parser.add_argument("seed", nargs="?", default=0, type=int, help="another seed draws another image (%(default)s)")
    words = parser.parse_args()
    words.out.write_bytes(png(draw(words.prompt, words.seed)))
    print(words.out)


if __name__ == "__main__":
    main()
