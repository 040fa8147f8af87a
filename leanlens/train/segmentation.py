"""Trains the network of `leanlens.score.segmentation` on augmented scenes, to separate the things of a picture.

Scenes are warped, blurred, scaled, recompressed and recoloured. They are of the split "train"; held-out scenes measure
the network. `segmentation.safetensors` in the folder is the network in float16.

Shapes: N pictures (N, H, W, 3) uint8 with their outlines (N, H, W) uint8; B of them in a step; answers at h = H / 2,
w = W / 2.
"""

import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from leanlens.files import whole_file
from leanlens.scenes.icons import Library, library, open_library
from leanlens.scenes.render import render, trace_things
from leanlens.scenes.scene import sample_scene
from leanlens.score.augmentation import blurred, elastic_offsets, recompressed, warp
from leanlens.score.segmentation import STRIDE, UNIT, SegmentationNetwork, group_pixels
from leanlens.train.scene_crops import scaled

SIZES = ((256, 256), (320, 192), (192, 320))  # (width, height)
SEEDS = {"train": 2**41, "test": 2**42}  # of the first scene: far from the seeds of denoiser training and of evaluation
HELD_OUT = 240
CHUNK = 120
BATCH = 8
RATE = 2e-3
WARMUP = 100
SAVE_SECONDS = 240
SCALES = (0.8, 1.25)  # of the sampled area: above 1 things become smaller
MOVED = 0.08  # of the sides, at most
BENDS, BENT = ((4, 0.03), (10, 0.015), (24, 0.006)), 0.75  # (cells, largest shift) of each field; its probability


def train_segmentation(folder: Path, minutes: float, num: int, sources: str) -> None:
    """Draw `num` scenes into the folder, once, and train on them; a stopped training is continued.

    Args:
        minutes: total training time, without drawing.
        sources: library of drawings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    icons = library(sources)
    scenes = draw(icons, folder / "scenes.safetensors", num, "train")
    held_out = draw(icons, folder / "held_out.safetensors", HELD_OUT, "test")
    learn(scenes, held_out, folder, 60 * minutes)


def draw(icons: Library, path: Path, num: int, split: str) -> dict[str, Tensor]:
    """Pictures and outlines of each size, `WxH.pixels` and `WxH.things`; drawn on every core and kept in a file."""
    if not path.exists():
        jobs = [(str(icons.folder), SEEDS[split] + at, min(CHUNK, num - at), split) for at in range(0, num, CHUNK)]
        rows: dict[str, list[np.ndarray]] = {}
        with ProcessPoolExecutor(cpu_count(), mp_context=get_context("spawn")) as pool:
            for chunk in pool.map(draw_chunk, *zip(*jobs, strict=True)):
                for name, part in chunk.items():
                    rows.setdefault(name, []).append(part)
        with whole_file(path) as temporary:
            save_file({name: torch.from_numpy(np.concatenate(parts)) for name, parts in rows.items()}, temporary)
    return load_file(path)


def draw_chunk(folder: str, first: int, count: int, split: str) -> dict[str, np.ndarray]:
    """Scenes first .. first + count - 1, by size."""
    icons = _opened(folder)
    rows: dict[str, list[np.ndarray]] = {}
    for seed in range(first, first + count):
        scene = sample_scene(seed, icons, split, SIZES)
        name = f"{scene.width}x{scene.height}"
        rows.setdefault(f"{name}.pixels", []).append(np.asarray(render(scene, icons)))
        rows.setdefault(f"{name}.things", []).append(trace_things(scene, icons))
    return {name: np.stack(parts) for name, parts in rows.items()}


@lru_cache(maxsize=1)
def _opened(folder: str) -> Library:
    return open_library(Path(folder))


def learn(scenes: dict[str, Tensor], held_out: dict[str, Tensor], folder: Path, seconds: float) -> None:
    """Minimise `loss_of` for `seconds` of training, over any number of processes one after another."""
    torch.manual_seed(0)
    network = SegmentationNetwork()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.02, betas=(0.9, 0.99))
    state, step, used = folder / "state.pt", 0, 0.0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        network.load_state_dict(kept["network"])
        optimizer.load_state_dict(kept["optimizer"])
        step, used = kept["step"], kept["used"]
    names = sorted({name.split(".")[0] for name in scenes})
    numbers = np.array([len(scenes[f"{name}.pixels"]) for name in names])
    began, before, saved, running = time.monotonic(), used, time.monotonic(), 0.0
    while used < seconds:
        rng = np.random.default_rng([7, step])
        name = names[rng.choice(len(names), p=numbers / numbers.sum())]
        rows = torch.from_numpy(rng.integers(len(scenes[f"{name}.pixels"]), size=BATCH))
        x, things = augmented(scenes[f"{name}.pixels"][rows], scenes[f"{name}.things"][rows], rng)
        network.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits, distances = network(x)
        loss = loss_of(logits, distances, *targets_of(things))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        rate = RATE * min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * min(1, used / seconds)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        step, used = step + 1, before + time.monotonic() - began
        running = 0.98 * (running or float(loss.detach())) + 0.02 * float(loss.detach())
        if step % 50 == 0:
            print(f"step {step}, {used:.0f} s: {running:.3f}", flush=True)
        if time.monotonic() - saved > SAVE_SECONDS or used >= seconds:
            save(network, optimizer, step, used, running, held_out, folder)
            saved = time.monotonic()


def save(network: SegmentationNetwork, optimizer: torch.optim.Optimizer, step: int, used: float, loss: float,
         held_out: dict[str, Tensor], folder: Path) -> None:  # fmt: skip
    """Write the state of the run, the network in float16, and a line with its results on held-out scenes."""
    with whole_file(folder / "state.pt") as temporary:
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "used": used}
        torch.save(state, temporary)
    halves = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    with whole_file(folder / "segmentation.safetensors") as temporary:
        save_file(halves, temporary)
    found = measure(network, held_out)
    line = json.dumps({"step": step, "seconds": round(used), "pictures": step * BATCH, "loss": round(loss, 4), **found})
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


@torch.no_grad()
def measure(network: SegmentationNetwork, held_out: dict[str, Tensor]) -> dict[str, float]:
    """`found`: share of the things in held-out scenes with a mask of IoU above 0.5; `of_answers`: share of the masks
    with such a thing."""
    network.eval()
    right = there = answered = 0
    for name in sorted({name.split(".")[0] for name in held_out}):
        for pixels, things in zip(held_out[f"{name}.pixels"], held_out[f"{name}.things"], strict=True):
            logits, distances = network(scaled(pixels[None]))
            masks = group_pixels(torch.sigmoid(logits[0]).numpy(), distances[0].numpy())
            truth = things[::STRIDE, ::STRIDE].numpy()
            numbers = [number for number in np.unique(truth) if number and (truth == number).sum() >= 16]
            best = [max((_iou(truth == number, mask > 0) for mask in masks), default=0.0) for number in numbers]
            right += sum(share > 0.5 for share in best)
            there, answered = there + len(numbers), answered + len(masks)
    return {"found": round(right / there, 4), "of_answers": round(right / max(1, answered), 4)}


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def augmented(pixels: Tensor, things: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Augmented pictures (B, 3, H, W) in -1..1 and their outlines (B, H, W)."""
    x, things = scaled(pixels), things[:, None].float()
    if rng.random() < 0.5:
        x, things = x.flip(-1), things.flip(-1)
    offsets = _offsets(len(x), x.shape[2], x.shape[3], rng)
    x, things = warp(x, offsets, outside="border"), warp(things, offsets, mode="nearest")
    rows = [_spoilt(row, rng) for row in x]
    return torch.stack(rows).contiguous(memory_format=torch.channels_last), things[:, 0].to(torch.uint8)


def _offsets(count: int, height: int, width: int, rng: np.random.Generator) -> Tensor:
    """(B, H, W, 2): random scaling, shift and, mostly, smooth distortion, as fractions of the sides."""
    y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, height), torch.linspace(-0.5, 0.5, width), indexing="ij")
    larger = torch.from_numpy(rng.uniform(*SCALES, (count, 1, 1, 1)) - 1).float()
    moved = torch.from_numpy(rng.uniform(-MOVED, MOVED, (count, 1, 1, 2))).float()
    bent = torch.from_numpy(rng.random((count, 1, 1, 1)) < BENT).float()
    return bent * elastic_offsets(height, width, BENDS, rng, count) + larger * torch.stack([x, y], dim=-1) + moved


def _spoilt(x: Tensor, rng: np.random.Generator) -> Tensor:
    """(3, H, W) with random changes: colours, blotches, blur, lossy compression."""
    if rng.random() < 0.3:
        x = x[torch.from_numpy(rng.permutation(3))]
    if rng.random() < 0.5:
        gain = torch.from_numpy(rng.uniform(0.7, 1.1, (3, 1, 1))).float()
        x = (x * gain + torch.from_numpy(rng.uniform(-0.2, 0.2, (3, 1, 1))).float()).clamp(-1, 1)
    if rng.random() < 0.4:
        cells = int(rng.choice((8, 16, 32, 64)))
        blotches = torch.from_numpy(rng.standard_normal((1, 3, cells, cells))).float()
        x = x + rng.uniform(0, 0.12) * functional.interpolate(blotches, size=x.shape[1:], mode="bilinear")[0]
    image = Image.fromarray(((x.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy())
    if rng.random() < 0.4:
        image = blurred(image, rng.uniform(0.35, 0.9))
    if rng.random() < 0.4:
        image = recompressed(image, int(rng.integers(15, 80)))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def targets_of(things: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Outlines (B, H, W) -> presence (B, h, w), distances in pixels (B, 4, h, w), pixel weights (B, h, w)."""
    small = things[:, ::STRIDE, ::STRIDE]
    present, weights = (small > 0).float(), torch.ones(small.shape)
    distances = torch.zeros(len(small), 4, *small.shape[1:])
    y = (torch.arange(small.shape[1]) + 0.5)[:, None] * STRIDE
    x = (torch.arange(small.shape[2]) + 0.5)[None] * STRIDE
    for row in range(len(small)):
        for number in small[row].unique():
            if not number:
                continue
            whole, own = things[row] == number, small[row] == number
            rows, columns = whole.any(1).nonzero(), whole.any(0).nonzero()
            y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
            sides = torch.stack(torch.broadcast_tensors(x - x0, y - y0, x1 - x, y1 - y)).clamp_min(0.5)
            distances[row] = torch.where(own, sides, distances[row])
            weights[row][own] = (2000 / max(30, int(own.sum()))) ** 0.5  # small things weigh more
    return present, distances, weights


def loss_of(logits: Tensor, distances: Tensor, present: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of presence and, on pixels of things, 1 - IoU of boxes plus the smooth L1 error of distances."""
    presence = functional.binary_cross_entropy_with_logits(logits, present, weights)
    own = present > 0
    if not own.any():
        return presence
    found, true = distances.movedim(1, -1)[own], wanted.movedim(1, -1)[own]
    low = torch.minimum(found, true)
    shared = (low[:, 0] + low[:, 2]) * (low[:, 1] + low[:, 3])
    areas = [(sides[:, 0] + sides[:, 2]) * (sides[:, 1] + sides[:, 3]) for sides in (found, true)]
    overlap = shared / (areas[0] + areas[1] - shared).clamp_min(1e-6)
    off = functional.smooth_l1_loss(found / UNIT, true / UNIT, beta=0.1, reduction="none").mean(1)
    counted = weights[own]
    return presence + (((1 - overlap) + off) * counted).sum() / counted.sum()
