"""Instance segmentation by a small network that predicts, for every pixel, the box of the thing it belongs to.

It has no classes: `leanlens.train.segmentation` trains it on scenes of icons without their names. Pixels whose boxes
agree form one mask, so a ball inside a ring, or a cup on a table, is two things although they touch.

B pictures of H x W pixels; predictions have h x w = H / 2 x W / 2.

Source: a box from every pixel as in FCOS (arXiv 1904.01355); blocks as in ConvNeXt (arXiv 2201.03545).
"""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

WEIGHTS = Path(__file__).parent / "segmentation.safetensors"
CHANNELS = (24, 40, 64, 96, 128)  # at a half, a quarter, ... of the resolution
BLOCKS = (1, 2, 2, 2)  # at a quarter and below
STRIDE = 2
AREA = 256 * 256  # pixels of its training pictures: others are scaled to about this area
MULTIPLE = 32
UNIT = 64.0  # pixels for a predicted distance of 1
PRESENT = 0.5  # probability from which a pixel belongs to a thing
AGREE = 0.6  # IoU from which the boxes of two pixels mean the same thing
FEWEST = 0.0016  # share of the picture: smaller things are specks
MOST = 24  # things in a picture
VOTERS = 1500  # pixels that vote, at most
CELLS = 2**16  # of a table that is computed at once: it fits the processor's cache


class Block(nn.Module):
    """Depthwise 7 x 7, then twice as many channels and back, with a residual connection."""

    def __init__(self, channels: int):
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.wide = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return x + cast(Tensor, self.narrow(functional.relu(self.wide(self.norm(self.spatial(x))), inplace=True)))


class SegmentationNetwork(nn.Module):
    """Pictures (B, 3, H, W) in -1..1 -> presence (B, h, w), logits, and distances (B, 4, h, w) in pixels.

    The distances are those from a pixel to the left, upper, right and lower side of the box around the visible part
    of its thing. H and W are multiples of 32.
    """

    def __init__(self) -> None:
        super().__init__()
        first = CHANNELS[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        self.down, self.up, self.level = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for (above, below), blocks in zip(pairwise(CHANNELS), BLOCKS, strict=True):
            self.down.append(
                nn.Sequential(
                    nn.Conv2d(above, below, 2, stride=2, bias=False),
                    nn.BatchNorm2d(below),
                    *(Block(below) for _ in range(blocks)),
                )
            )
            self.up.append(nn.Conv2d(below, above, 1))
            self.level.append(Block(above))
        self.answer = nn.Conv2d(first, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = self.stem(x)
        kept = []
        for down in self.down:
            kept.append(x)
            x = down(x)
        for up, level, above in zip(reversed(self.up), reversed(self.level), reversed(kept), strict=True):
            x = level(above + functional.interpolate(up(x), scale_factor=2.0, mode="nearest"))
        answer = self.answer(functional.relu(x)).float()
        return answer[:, 0], UNIT * functional.softplus(answer[:, 1:])


@cache
def segmentation_network() -> SegmentationNetwork:
    """The network, shared by the whole process."""
    network: Any = SegmentationNetwork()
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return _without_norms(network.eval()).to(memory_format=torch.channels_last)


def _without_norms(network: nn.Module) -> Any:
    """The network with every batch normalisation folded into the convolution before it."""
    for parent in list(network.modules()):
        names = list(parent._modules)
        for before, name in pairwise(names):
            conv, norm = parent._modules[before], parent._modules[name]
            if isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d):
                setattr(parent, before, fuse_conv_bn_eval(conv, norm))
                setattr(parent, name, nn.Identity())
    return network


def segment(pixels: np.ndarray, network: SegmentationNetwork | None = None) -> list[np.ndarray]:
    """(H, W) bool masks of the things in an image, largest first."""
    small = _scaled(pixels)
    batch = torch.from_numpy(small.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits, distances = (network or segmentation_network())(batch.contiguous(memory_format=torch.channels_last))
    masks = group_pixels(torch.sigmoid(logits[0]).numpy(), distances[0].numpy())
    if not masks:
        return []
    planes = torch.from_numpy(np.stack(masks))[:, None]
    return list((functional.interpolate(planes, size=pixels.shape[:2], mode="bilinear")[:, 0] > 0.5).numpy())


def _scaled(pixels: np.ndarray) -> np.ndarray:
    """The image scaled to about AREA, with sides that are multiples of MULTIPLE."""
    height, width = pixels.shape[:2]
    scale = (AREA / (height * width)) ** 0.5
    h, w = (max(MULTIPLE, MULTIPLE * round(side * scale / MULTIPLE)) for side in (height, width))
    if (h, w) == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BILINEAR))


def group_pixels(presence: np.ndarray, distances: np.ndarray) -> list[np.ndarray]:
    """Group pixels whose boxes agree: (h, w) and (4, h, w) -> masks (h, w) float32, 0 or 1, largest first."""
    rows, columns = np.nonzero(presence > PRESENT)
    fewest = FEWEST * presence.size
    if len(rows) < fewest:
        return []
    y, x = STRIDE * (rows + 0.5), STRIDE * (columns + 0.5)
    left, top, right, bottom = distances[:, rows, columns]
    boxes = np.stack([x - left, y - top, x + right, y + bottom], axis=1).astype(np.float32)
    chosen = np.linspace(0, len(rows) - 1, min(VOTERS, len(rows))).astype(int)
    agreed = agreed_boxes(boxes[chosen], fewest * len(chosen) / len(rows))
    if not len(agreed):
        return []
    best = box_iou(boxes, agreed)
    owner = np.where(best.max(axis=1) > AGREE / 2, best.argmax(axis=1), -1)
    masks = []
    for index in range(len(agreed)):
        mask = np.zeros(presence.shape, np.float32)
        mask[rows[owner == index], columns[owner == index]] = 1
        if mask.sum() >= fewest:
            masks.append(mask)
    return sorted(masks, key=lambda mask: -mask.sum())


def agreed_boxes(votes: np.ndarray, fewest: float) -> np.ndarray:
    """Boxes (N, 4) that at least `fewest` of the votes (V, 4) agree on, those with the most votes first."""
    near = box_iou(votes, votes) > AGREE
    support = np.count_nonzero(near, axis=1)  # by votes that belong to no box yet
    free, found = np.ones(len(votes), bool), list[np.ndarray]()
    while free.any() and len(found) < MOST:
        leader = int(np.where(free, support, -1).argmax())
        if support[leader] < max(2.0, fewest):
            break
        group = near[leader] & free
        found.append(np.median(votes[group], axis=0))
        free &= ~group
        support -= np.count_nonzero(near[group], axis=0)
    return np.array(found, np.float32).reshape(-1, 4)


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes: (N, 4) and (M, 4) -> (N, M)."""
    found = np.empty((len(one), len(other)), np.float32)
    rows = max(1, CELLS // max(1, len(other)))
    for start in range(0, len(one), rows):
        _iou(one[start : start + rows], other, found[start : start + rows])
    return found


def _iou(one: np.ndarray, other: np.ndarray, out: np.ndarray) -> None:
    """`box_iou` of a few boxes, written to `out`."""
    x0, y0, x1, y1 = (column[:, None] for column in one.T)
    other_x0, other_y0, other_x1, other_y1 = np.ascontiguousarray(other.T)
    width = np.minimum(x1, other_x1)
    width -= np.maximum(x0, other_x0)
    np.maximum(width, 0, out=width)
    shared = np.minimum(y1, other_y1)
    shared -= np.maximum(y0, other_y0)
    np.maximum(shared, 0, out=shared)
    shared *= width
    union = np.add((x1 - x0) * (y1 - y0), (other_x1 - other_x0) * (other_y1 - other_y0), out=width)
    union -= shared
    np.maximum(union, np.float32(1e-6), out=union)
    np.divide(shared, union, out=out)
