"""Computes the bytes that drawing one image needs, stage by stage.

A stage needs the weights that lie where it runs (`part_bytes`) and its own workspace (the other functions here).
Only text features and latents outlive their stage, and they are counted.

The workspaces were found by counting the tensors that are alive at once, operator by operator, in `models/` and in
diffusers' decoder; `tests/plan/test_memory.py` counts again, at toy and at full width. What a library allocates inside
an operator is not included; `rates.py` has it as far as it is known.

Legend: D width, n image tokens, m text tokens, T = n + m, E width of the text encoder, H x W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from leanlens.plan.compute import DenoiserSizes
from leanlens.plan.options import QUANT_BITS

ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
MXFP4_BYTES = 4.25 / 8  # four bits each, and one byte for every 32
PREFIX_TOKENS = 97  # of the text template; encoded with every prompt and dropped
# Decoding in tiles changes pixels near the seams, so no size the released Lens draws is tiled: its largest bucket has
# 8,450 tokens (1040 x 2080).
TILE_ABOVE_TOKENS = 8450


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of the text encoder; the defaults are GPT-OSS-20B without its head and last norm.

    Attributes:
        parameters: all weights.
        packed: weights in MXFP4, 4.25 bits each.
        active: weights that a token is multiplied with, without the embedding.
        largest: elements of the largest single tensor.
        width: E.
        heads: number of attention heads.
        attention_width: heads * channels of one head.
        selected: layers whose features are kept.
        experts: number of experts in a layer.
    """

    parameters: int = 20_335_620_864
    packed: int = 19_110_297_600
    active: int = 3_029_170_944
    largest: int = 579_133_440
    layers: int = 24
    width: int = 2880
    heads: int = 64
    attention_width: int = 4096
    selected: int = 4
    experts: int = field(default=32, compare=False)


@dataclass(frozen=True)
class AutoencoderSizes:
    """Sizes of the autoencoder; the defaults are those of FLUX.2.

    Attributes:
        channels: channels of each level, the finest first.
        tile: side of a tile, pixels.
    """

    parameters: int = 84_046_115
    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 32
    tile: int = 1024


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a whole pipeline; the defaults are the released Lens.

    Attributes:
        denoiser_file, encoder_file: bytes to read each time the part is opened or streamed.
    """

    denoiser: DenoiserSizes = field(default_factory=DenoiserSizes)
    denoiser_parameters: int = 4_104_225_152
    heads: int = 24
    encoder: EncoderSizes = field(default_factory=EncoderSizes)
    autoencoder: AutoencoderSizes = field(default_factory=AutoencoderSizes)
    denoiser_file: float = field(default=16.4e9, compare=False)
    encoder_file: float = field(default=12.6e9, compare=False)

    @property
    def packed_weights(self) -> int:
        """Weights of the denoiser that are packed when it is quantised: those of attention and gated MLPs."""
        d = self.denoiser.width
        return self.denoiser.layers * (2 * 4 * d * d + 2 * 3 * d * self.denoiser.hidden)

    @property
    def modulation(self) -> int:
        """Weights of the denoiser that turn a noise level into modulation."""
        d = self.denoiser.width
        return self.denoiser.layers * 2 * (6 * d * d + 6 * d)

    @property
    def modulation_share(self) -> float:
        """Share of the denoiser's weights that are modulation."""
        return self.modulation / self.denoiser_parameters

    @property
    def around_blocks(self) -> int:
        """Weights of the denoiser outside its blocks."""
        return self.denoiser.around_blocks


def part_bytes(model: ModelSizes, dtype: str, packed: bool, quant: str = "none") -> dict[str, float]:
    """Bytes of the weights of each part.

    Args:
        dtype: bfloat16, float16 or float32, for every part.
        packed: the text encoder keeps its experts in MXFP4; the rest of it has `dtype`.
        quant: quantisation of the denoiser's attention and gated MLPs.

    Raises:
        ValueError: an unknown dtype.
    """
    element = element_bytes(dtype)
    small = model.encoder.packed if packed else 0
    spared = 0.0 if quant == "none" else model.packed_weights * (element - QUANT_BITS[quant] / 8)
    return {
        "text_encoder": (model.encoder.parameters - small) * element + small * MXFP4_BYTES,
        "transformer": model.denoiser_parameters * element - spared,
        "vae": float(model.autoencoder.parameters * element),
    }


def without_modulation_bytes(model: ModelSizes, denoiser: float, element: int, steps: int) -> float:
    """Bytes of a denoiser whose modulation is offloaded: the rest, one such layer, and its output for all noise levels.

    Args:
        denoiser: bytes of the whole.
        steps: noise levels.
    """
    layers = 2 * model.denoiser.layers
    rows = steps * layers * 6 * model.denoiser.width
    return denoiser + (model.modulation / layers + rows - model.modulation) * element


def two_blocks_bytes(model: ModelSizes, denoiser: float, element: int) -> float:
    """Bytes of a denoiser whose blocks are loaded one by one: two of them, and the weights outside the blocks.

    Args:
        denoiser: bytes of the whole.
    """
    around = model.around_blocks * element
    return around + 2 * (denoiser - around) / model.denoiser.layers


def streamed_bytes(model: ModelSizes, element: int) -> dict[str, float]:
    """Bytes of the largest layer of encoder and denoiser, if they are read layer by layer, and of decoding it.

    Experts are decoded one by one, in float32, two thirds of an expert at a time.
    """
    d, experts = model.denoiser.width, model.encoder.packed / model.encoder.layers
    widest = d * max(6 * d, model.denoiser.text_channels, model.denoiser.hidden)
    return {
        "text_encoder": max(experts, model.encoder.largest) * element + experts / model.encoder.experts * 8,
        "transformer": float(widest * (element + 4)),
    }


def unpacking_bytes(model: ModelSizes, quant: str, element: int) -> float:
    """Bytes for decoding the widest quantised layer: twice in float32, once in the dtype it is used in."""
    if quant == "none":
        return 0.0
    d = model.denoiser.width
    return float(d * max(3 * d, model.denoiser.hidden) * (8 + element))


def element_bytes(dtype: str) -> int:
    """Bytes of one number.

    Raises:
        ValueError: an unknown dtype.
    """
    if dtype not in ELEMENT_BYTES:
        raise ValueError(f"invalid dtype {dtype!r}: expected one of {', '.join(ELEMENT_BYTES)}")
    return ELEMENT_BYTES[dtype]


def encoding_bytes(sizes: EncoderSizes, tokens: int, element: int) -> int:
    """Workspace of the text encoder for one prompt of `tokens`, including those of the template.

    GPT-OSS has a learned sink in every head, which fused attention does not support, so the scores of all heads exist
    four times at once. To these come the selected features, the residual stream and two masks.
    """
    scores = 4 * sizes.heads * tokens * (tokens + 1) * element
    return scores + (sizes.selected + 1) * tokens * sizes.width * element + 2 * tokens**2


def denoising_bytes(
    sizes: DenoiserSizes, heads: int, image_tokens: int, text_tokens: int, element: int, fused: bool = True
) -> int:
    """Workspace of the denoiser for one image; its two guidance branches run one after the other.

    The peak is at one of three places in a block: where keys are rotated, in float32 whatever the dtype; where
    both streams are joined for attention; where the gated MLP multiplies its halves.

    Args:
        fused: attention does not write its scores down; without, they are there twice.
    """
    n, both, d = image_tokens, image_tokens + text_tokens, sizes.width
    half = element < 4
    rotating = (5 * both + 2 * n + (6 if half else 2) * n) * d
    joining = 11 * both * d
    multiplying = 4 * both * d + 3 * n * sizes.hidden
    scores = 0 if fused else 2 * heads * both**2
    tables = 4 * (2 * n + text_tokens) * (d // heads)  # of both branches, float32, kept for all steps
    kept = (2 * n * sizes.latent_channels + 2 * text_tokens * sizes.text_channels) * element
    return max(rotating, joining + scores, multiplying) * element + tables + kept


def decoding_bytes(
    sizes: AutoencoderSizes,
    height: int,
    width: int,
    element: int,
    scratch: float = 0.0,
    fused: bool = True,
    tiled: bool = False,
) -> float:
    """Workspace of the decoder for one image, in tiles if it is larger than any official size.

    The widest level is that of the first block at full size, which still has the channels of the level below: its
    input, normalised and activated, is alive three times; where a
    block does not narrow, its end needs five times its output.

    Args:
        scratch: what convolutions need inside, as a multiple of that input.
        fused: the one attention, at the coarsest level, does not write its scores down; without, they are there twice.
        tiled: in tiles of half the usual side, whatever the size.
    """
    channels = sizes.channels
    entering = (*channels[1:], channels[-1])
    levels = [
        (into / 4**level, out / 4**level) for level, (into, out) in enumerate(zip(entering, channels, strict=True))
    ]
    widest = max(into for into, _ in levels)
    alive = max(max(3 * into, 5 * out) for into, out in levels)  # a block's first half, and its sum at the end
    tile = sizes.tile // 2 if tiled else sizes.tile if is_tiled(height, width) else max(height, width)
    pixels = min(height, tile) * min(width, tile)
    # Finished tiles wait for the last one, then are joined into rows and the rows into the picture.
    finished = 0.0
    if pixels < height * width:
        finished = 3 * 3 * tiled_share(sizes, height, width, tiled) * height * width
    latents = 2 * height * width / 256 * 4 * sizes.latent_channels  # packed, and unpacked
    scores = 0 if fused else 2 * (pixels / 4 ** (len(channels) - 1)) ** 2
    return (max((alive + scratch * widest) * pixels, scores) + finished + latents) * element


def is_tiled(height: int, width: int) -> bool:
    """Whether an image of this size is decoded in tiles."""
    return height * width // 256 > TILE_ABOVE_TOKENS


def tiled_share(sizes: AutoencoderSizes, height: int, width: int, tiled: bool = False) -> float:
    """Decoded pixels for each pixel of the image: 1 without tiles, more with overlapping tiles."""
    if not tiled and not is_tiled(height, width):
        return 1.0
    tile = sizes.tile // 2 if tiled else sizes.tile
    return sum(_tiles(height, tile)) * sum(_tiles(width, tile)) / (height * width)


def _tiles(side: int, tile: int) -> Iterator[int]:
    """Lengths of the tiles along one side; a new one begins every three quarters of a tile."""
    return (min(tile, side - start) for start in range(0, side, tile * 3 // 4))
