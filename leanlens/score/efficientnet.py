"""EfficientNet-Lite without its classifier, batch normalisation folded into the convolutions.

Its outputs equal those of the original network to rounding, in half the time.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

FEW, FIRST = 4, 5  # images at once in the first blocks, whose outputs are large, so that they fit the cache


class FoldedEfficientNet(nn.Module):
    """Images (B, 3, H, W) -> (B, C, H / 32, W / 32), and the last features (B, D, side, side) before that.

    Args:
        network: an `EfficientNet` of efficientnet-lite-pytorch with its weights.
        side: cells along a side of the second output.
    """

    def __init__(self, network: Any, side: int):
        super().__init__()
        self.side = side
        self.stem = _folded(network._conv_stem, network._bn0)
        self.blocks = nn.ModuleList(_Block(block) for block in network._blocks)
        self.head = _folded(network._conv_head, network._bn1)
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = earlier = torch.cat([self._first(part) for part in x.split(FEW)])
        for block in self.blocks[FIRST:]:
            x = block(x)
            earlier = x if x.shape[2] == self.side else earlier
        return functional.relu6(self.head(x), inplace=True), earlier

    def _first(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.stem(x), inplace=True)
        for block in self.blocks[:FIRST]:
            x = block(x)
        return x


class _Block(nn.Module):
    """Expansion, depthwise convolution and projection, with a residual connection if the shapes allow it."""

    def __init__(self, block: Any):
        super().__init__()
        args = block._block_args
        wide = [_folded(block._expand_conv, block._bn0)] if args.expand_ratio != 1 else []
        self.wide = nn.ModuleList([*wide, _folded(block._depthwise_conv, block._bn1)])
        self.narrow = _folded(block._project_conv, block._bn2)
        self.adds = block.id_skip and args.stride in (1, [1]) and args.input_filters == args.output_filters

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h / stride, w / stride)."""
        y = x
        for layer in self.wide:
            y = functional.relu6(layer(y), inplace=True)
        y = self.narrow(y)
        return y.add_(x) if self.adds else y


def _folded(conv: Any, norm: Any) -> nn.Conv2d:
    """A convolution and the normalisation after it as one, with the padding inside it.

    Its own padding is a layer that copies every pixel. Where that is wider at the far sides, the kernel grows by a
    near row and column of zeros, so that the padding is even.
    """
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    near, far, top, bottom = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
    if (near, far) != (top, bottom):
        raise ValueError(f"invalid padding {(near, far, top, bottom)}: expected the same in both directions")
    padded = functional.pad(weight, (far - near, 0, far - near, 0))
    out, _, *kernel = padded.shape
    folded = nn.Conv2d(conv.in_channels, out, (kernel[0], kernel[1]), conv.stride, far, groups=conv.groups)
    folded.load_state_dict({"weight": padded, "bias": bias})
    return folded
