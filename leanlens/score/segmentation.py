"""Instance segmentation by a small network that predicts, for every pixel, the box of the thing it belongs to.

It has no classes: it was trained on scenes of icons (`runs/scene_outlines.py`) without their names. Pixels whose boxes
agree form one mask, so a ball inside a ring, or a cup on a table, is two things although they touch.

B pictures of H x W pixels; answers are made at h x w = H / 2 x W / 2.

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

WEIGHTS = Path(__file__).parent / "segmentation.safetensors"
CHANNELS = (24, 40, 64, 96, 128)  # at a half, a quarter, ... of the resolution
BLOCKS = (1, 2, 2, 2)  # at a quarter and below
STRIDE = 2
AREA = 256 * 256  # of the pictures it learnt from, pixels: others are brought to it
MULTIPLE = 32
UNIT = 64.0  # pixels to which a distance of 1 stands
PRESENT = 0.5  # probability from which a pixel belongs to a thing
AGREE = 0.6  # overlap of boxes from which pixels speak of the same thing
FEWEST = 0.0016  # of the picture: things of fewer pixels are specks
MOST = 24  # things of a picture
VOTERS = 1500  # pixels that vote, at most


class Block(nn.Module):
    """Depthwise 7 x 7, then twice as many channels and back, added to what came in."""

    def __init__(self, channels: int):
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.wide = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return x + cast(Tensor, self.narrow(functional.relu(self.wide(self.norm(self.spatial(x))))))


class SegmentationNetwork(nn.Module):
    """Pictures (B, 3, H, W) in -1..1 -> presence (B, h, w), logits, and distances (B, 4, h, w) in pixels.

    The distances are those from a pixel to the left, upper, right and lower side of the box around what can be seen
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
    """The one network of this process."""
    network: Any = SegmentationNetwork()
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return network.eval().to(memory_format=torch.channels_last)


def segment(pixels: np.ndarray, network: SegmentationNetwork | None = None) -> list[np.ndarray]:
    """(H, W) bool masks of the things in an image, largest first."""
    height, width = pixels.shape[:2]
    scale = (AREA / (height * width)) ** 0.5
    h, w = (max(MULTIPLE, MULTIPLE * round(side * scale / MULTIPLE)) for side in (height, width))
    small = (
        np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BILINEAR))
        if (h, w) != (height, width)
        else pixels
    )
    batch = torch.from_numpy(small.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits, distances = (network or segmentation_network())(batch.contiguous(memory_format=torch.channels_last))
    shares = [
        functional.interpolate(torch.from_numpy(share)[None, None], size=(height, width), mode="bilinear")[0, 0].numpy()
        for share in group_pixels(torch.sigmoid(logits[0]).numpy(), distances[0].numpy())
    ]
    return [share > 0.5 for share in shares]


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
    table = box_iou(votes, votes)
    free, found = np.ones(len(votes), bool), list[np.ndarray]()
    while free.any() and len(found) < MOST:
        near = (table > AGREE) & free
        support = near[free].sum(axis=1)
        if support.max() < max(2.0, fewest):
            break
        leader = np.flatnonzero(free)[int(support.argmax())]
        found.append(np.median(votes[near[leader]], axis=0))
        free &= ~near[leader]
    return np.array(found, np.float32).reshape(-1, 4)


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes: (N, 4) and (M, 4) -> (N, M)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, other)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-6)
