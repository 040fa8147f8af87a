"""Initialises an autoencoder as a linear one: principal components in, flat colours out.

Shapes: B crops of side S pixels, z latent channels, N rows of numbers.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

FIRST_LOG_VARIANCE = -6.0  # of a latent number: noise of a twentieth of its size


@torch.no_grad()
def start_linear(model: Any, x: Tensor) -> None:
    """Change the random weights of an `AutoencoderKLFlux2`, in place, to a linear autoencoder.

    Normalisation removes the colour in a random network, which then needs its first thousand steps to recover it.
    Here the encoder's residual stream holds the principal components of ever larger squares of the crops `x`
    (B, 3, S, S), a latent number is one of them, and the decoder's stream leads the first of them to the colours. The
    branches start at zero. What has to pass a norm and a SiLU goes there twice, as v and -v beside a large constant:
    silu(v) - silu(-v) = v, and the constant keeps the scale.

    Raises:
        ValueError: normalisation in several groups, each of which would lose its own mean and scale.
    """
    if model.config.norm_num_groups != 1:
        raise ValueError(f"norm_num_groups {model.config.norm_num_groups} has no linear start; only 1 has")
    for name, module in model.named_modules():
        if name.endswith((".conv2", ".to_out.0")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    for layer in (model.quant_conv, model.post_quant_conv):
        nn.init.dirac_(layer.weight)
        nn.init.zeros_(layer.bias)
    latents = _start_encoder(model.encoder, x, model.config.latent_channels)
    nn.init.constant_(model.quant_conv.bias[model.config.latent_channels :], FIRST_LOG_VARIANCE)
    _start_decoder(model.decoder, x, latents)


def _start_encoder(encoder: Any, x: Tensor, z: int) -> Tensor:
    """Components into the stream, the largest of them out; returns the latents (B, z, h, w) of unit variance."""
    _pass_on(encoder.conv_in, 3, 3)
    pairs = encoder.conv_norm_out.num_channels // 2 - 1
    for block in encoder.down_blocks:
        width = block.resnets[-1].conv2.out_channels
        x = x[:, :width]
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None:
                _pass_on(resnet.conv_shortcut, len(x[0]), len(x[0]))
        if block.downsamplers is None:
            break
        squares = functional.unfold(x, 2, stride=2).transpose(1, 2).flatten(0, 1)  # (N, 4 k)
        kept = min(4 * x.shape[1], width)
        entry, directions = block.downsamplers[0].conv, _components(squares, kept).view(kept, x.shape[1], 2, 2)
        entry.weight[:kept].zero_()
        entry.bias[:kept].zero_()
        entry.weight[:kept, : x.shape[1], :2, :2] = directions
        x = functional.conv2d(x, directions, stride=2)
    x = x[:, :pairs]
    constant = 8 * float(x.square().mean().sqrt()) * pairs**0.5
    shortcut = encoder.down_blocks[-1].resnets[0].conv_shortcut
    if shortcut is not None:
        _double(shortcut, _alone(torch.eye(x.shape[1])), constant, encoder.conv_norm_out.num_channels)
    else:  # the last two widths are equal, and the stream enters the last one by the downsampler before it
        _double(entry, directions[: x.shape[1]], constant, encoder.conv_norm_out.num_channels)
    found = x.movedim(1, -1).flatten(0, -2)
    directions = _components(found, z)
    scale = (found @ directions.T).std(0)
    directions = directions / scale[:, None]
    _undouble(encoder.conv_out, directions, constant, x)
    return functional.conv2d(x, directions[:, :, None, None])


def _start_decoder(decoder: Any, x: Tensor, latents: Tensor) -> None:
    """The first latents through the stream, and the best linear colours of them out."""
    width = decoder.conv_norm_out.num_channels
    kept = min(width // 2 - 1, latents.shape[1])
    latents = latents[:, :kept]
    constant = 8 * float(latents.square().mean().sqrt()) * kept**0.5
    _double(decoder.conv_in, _alone(torch.eye(kept, decoder.conv_in.in_channels)), constant, width)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None:
                _pass_on(resnet.conv_shortcut, width, width)
        for upsampler in block.upsamplers or ():
            _pass_on(upsampler.conv, width, width)
    colors = functional.interpolate(x, latents.shape[2:], mode="area").movedim(1, -1).flatten(0, -2)
    rows = latents.movedim(1, -1).flatten(0, -2).double()
    # Normal equations: lstsq answers differently from call to call in the last bits.
    mixing = torch.linalg.solve(rows.T @ rows, rows.T @ colors.double()).T.to(colors.dtype)
    _undouble(decoder.conv_out, mixing, constant, latents)


def _components(rows: Tensor, kept: int) -> Tensor:
    """The first principal directions, about zero, of rows (N, D): (kept, D)."""
    _, vectors = torch.linalg.eigh(rows.T.double() @ rows.double())
    return vectors.flip(1)[:, :kept].T.to(rows.dtype)


def _pass_on(layer: Any, inputs: int, outputs: int) -> None:
    """The first channels of a convolution become the identity; its other outputs stay random."""
    middle = layer.kernel_size[0] // 2
    layer.weight[:outputs].zero_()
    layer.bias[:outputs].zero_()
    for channel in range(min(inputs, outputs)):
        layer.weight[channel, channel, middle, middle] = 1


def _alone(matrix: Tensor) -> Tensor:
    """A matrix as the kernels of a convolution of one pixel."""
    return matrix[:, :, None, None]


def _double(layer: Any, kernels: Tensor, constant: float, stream: int) -> None:
    """The first outputs of a convolution become M x, -M x, a constant, its opposite, and zeros up to `stream`.

    Kernels are (rows, columns, k, k): of one pixel they stand in the middle, of four at the upper left.
    """
    rows, columns, side, _ = kernels.shape
    first = (layer.kernel_size[0] - side) // 2
    layer.weight[:stream].zero_()
    layer.bias[:stream].zero_()
    layer.weight[:rows, :columns, first : first + side, first : first + side] = kernels
    layer.weight[rows : 2 * rows] = -layer.weight[:rows]
    layer.bias[2 * rows], layer.bias[2 * rows + 1] = constant, -constant


def _undouble(layer: Any, matrix: Tensor, constant: float, x: Tensor) -> None:
    """A convolution after norm and SiLU that gives M x again from what `_double` wrote into the stream."""
    rows, columns = matrix.shape
    power = 2 * constant**2 + 2 * float(x.square().sum(1).mean())
    scale = (power / layer.in_channels) ** 0.5
    layer.weight.zero_()
    layer.bias.zero_()
    middle = layer.kernel_size[0] // 2
    layer.weight[:rows, :columns, middle, middle] = matrix * scale
    layer.weight[:rows, columns : 2 * columns, middle, middle] = -matrix * scale
