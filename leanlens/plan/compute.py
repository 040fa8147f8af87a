"""Counts floating-point operations (FLOP), two for each multiply-add, for plans, training and reports alike.

Counted are matrix products, attention's two products over every pair of tokens that is really computed (padding
included), and convolutions. Norms, activations, softmax and the optimiser's elementwise work are not counted, as in the
peak rates of hardware that results are compared with. Recomputation (activation checkpointing, fused attention) is not
counted either, since the model does not need it.

Legend: D width, n image tokens, m text tokens, C packed latent channels, E channels of all text features joined.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MEAN_TEXT_TOKENS = 165  # of a prompt, kept of its template: the mean of the paper's captions, which decides the cost
MAX_TEXT_TOKENS = 256  # of a long one, which memory has to hold


@dataclass(frozen=True)
class DenoiserSizes:
    """Sizes that decide the cost of the denoiser; the defaults are the released Lens.

    Attributes:
        layers: number of blocks.
        width: D.
        latent_channels: C.
        text_channels: E, all selected layers together.
    """

    layers: int = 48
    width: int = 1536
    latent_channels: int = 128
    text_channels: int = 4 * 2880

    @property
    def hidden(self) -> int:
        """Hidden width of the gated MLP."""
        return int(self.width / 3 * 8)

    @property
    def around_blocks(self) -> int:
        """Weights outside the blocks."""
        d, c, e = self.width, self.latent_channels, self.text_channels
        return d * (2 * c + e + 256 + 3 * d) + 6 * d + c + e


def denoiser_flops(sizes: DenoiserSizes, image_tokens: int, text_tokens: int) -> int:
    """FLOP of one forward pass of one sample."""
    d, tokens = sizes.width, image_tokens + text_tokens
    linear = 2 * (4 * d**2 + 3 * d * sizes.hidden) * tokens
    attention = 4 * tokens**2 * d
    modulation = 2 * 12 * d**2  # once per sample: six vectors for each stream
    ends = 2 * d * (2 * sizes.latent_channels * image_tokens + sizes.text_channels * text_tokens)
    level = 2 * (256 * d + d**2) + 2 * 2 * d**2  # timestep embedding, final modulation
    return sizes.layers * (linear + attention + modulation) + ends + level


def training_flops(sizes: DenoiserSizes, image_tokens: int, text_tokens: int) -> int:
    """FLOP of the forward and backward pass of one sample.

    The backward pass costs two forward passes, except for what needs no gradient: the input latents, the noise levels,
    and the last block's text output, which nothing reads (its product with the weights, its gated MLP).
    """
    d = sizes.width
    unread = 2 * (d**2 + 3 * d * sizes.hidden) * text_tokens
    inputs = 2 * d * sizes.latent_channels * image_tokens + 2 * 256 * d
    return 3 * denoiser_flops(sizes, image_tokens, text_tokens) - 2 * unread - inputs


def text_encoder_flops(active_parameters: int, tokens: int, layers: int, width: int) -> int:
    """FLOP of one forward pass over a text: every active weight once per token, and attention over all pairs of tokens.

    Args:
        active_parameters: weights that a token is multiplied with, without embedding and head; 3.03e9 for GPT-OSS-20B.
        width: heads * head_dim.
    """
    return 2 * active_parameters * tokens + 4 * layers * tokens**2 * width


def autoencoder_flops(
    height: int,
    width: int,
    channels: Sequence[int] = (128, 256, 512, 512),
    layers_per_block: int = 2,
    latent_channels: int = 32,
) -> int:
    """FLOP of encoding an image with the FLUX.2 autoencoder; the defaults are the released one.

    Counts a 3 x 3 convolution as 18 * channels in * channels out for each pixel of its output.
    """
    pixels, before = height * width, channels[0]
    total = 18 * 3 * before * pixels
    for index, after in enumerate(channels):
        for layer in range(layers_per_block):
            entering = before if layer == 0 else after
            total += pixels * (18 * entering * after + 18 * after * after)
            total += pixels * 2 * entering * after if entering != after else 0  # the shortcut is 1 x 1
        before = after
        if index < len(channels) - 1:
            pixels //= 4
            total += 18 * after * after * pixels  # halving
    total += 2 * pixels * 2 * 18 * before * before  # two residual blocks in the middle
    total += pixels * 4 * 2 * before * before + 4 * pixels**2 * before  # and attention between them
    return total + pixels * (18 * before * 2 * latent_channels + 2 * (2 * latent_channels) ** 2)


def decoding_flops(
    height: int,
    width: int,
    channels: Sequence[int] = (128, 256, 512, 512),
    layers_per_block: int = 2,
    latent_channels: int = 32,
) -> int:
    """FLOP of decoding an image with the FLUX.2 autoencoder; counted like `autoencoder_flops`."""
    pixels, before = height * width // 4 ** (len(channels) - 1), channels[-1]
    total = pixels * (2 * latent_channels**2 + 18 * latent_channels * before)
    total += 2 * pixels * 2 * 18 * before * before  # two residual blocks in the middle
    total += pixels * 4 * 2 * before * before + 4 * pixels**2 * before  # and attention between them
    for index, after in enumerate(reversed(channels)):
        for layer in range(layers_per_block + 1):
            entering = before if layer == 0 else after
            total += pixels * (18 * entering * after + 18 * after * after)
            total += pixels * 2 * entering * after if entering != after else 0
        before = after
        if index < len(channels) - 1:
            pixels *= 4
            total += 18 * after * after * pixels  # doubling
    return total + 18 * 3 * before * pixels
