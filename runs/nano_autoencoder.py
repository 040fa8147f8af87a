"""Trains nano's autoencoder on pictures that lie on the device (runs/nano_gpu.sh). Live.

    python runs/nano_autoencoder.py FOLDER [--minutes M] [--decoder-minutes M] [--num N] [--library L] [--start FOLDER]
        [--decoder RECIPE] [--patterns SHARE] [--set A.B=C]...

`leanlens train` reads and decodes every picture of a step, which no processor does fast enough for this. Losses, loop
and export are the same. First everything learns, into FOLDER/all; then the decoder alone on latents with noise, into
FOLDER/decoder, whose `export` is the autoencoder; `--minutes 0` leaves the first out, and the decoder of `--start` goes
on. FOLDER/channels.json says how far each latent channel moves pixels.

Shapes: N pictures (N, H, W, 3) uint8, B crops of side S.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor

from leanlens.config import read_recipe
from leanlens.dist import join
from leanlens.files import whole_file
from leanlens.log import logger
from leanlens.models import vae as autoencoder
from leanlens.scenes.draw import drawn_chunks
from leanlens.scenes.icons import library
from leanlens.scenes.layout import PATTERNS
from leanlens.train.autoencoder import train_autoencoder
from leanlens.train.autoencoder_config import AutoencoderRecipe
from leanlens.train.crops import BUSY_CHOICES, MEASURED, Pictures
from leanlens.train.signals import exit_code

ALL, DECODER = Path("recipes/nano/gpu-autoencoder.toml"), Path("recipes/nano/gpu-decoder.toml")
OTHER_STEPS = 2**31  # the number of the first step that no run reaches
SIDE = 256  # of a drawn picture, pixels
MOVED = 8  # pictures that channels are measured on
NUDGE = 0.5  # standard deviations by which a channel is moved
POWER = 1.5  # of the pixels' move that a channel's weight in the denoiser's loss is


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0, help="for all of it, once pictures are drawn")
    parser.add_argument("--decoder-minutes", type=float, default=1.0)
    parser.add_argument("--num", type=int, default=20_000, help="pictures")
    parser.add_argument("--patterns", type=float, default=0.0, help="share of pictures that have patterns behind them")
    parser.add_argument("--library", default="full")
    parser.add_argument("--start", type=Path, help="folder of an autoencoder to go on from")
    parser.add_argument("--decoder", type=Path, default=DECODER, metavar="RECIPE", help="of the decoder alone")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="A.B=C")
    given = parser.parse_args()
    if given.minutes == 0 and given.start is None:
        parser.error("--minutes 0 leaves the decoder alone, which needs --start: the autoencoder that it belongs to")
    if not 0 <= given.patterns <= 1:
        parser.error(f"--patterns {given.patterns:g} is not accepted; give a share from 0 to 1")
    first = [f"start={given.start}"] if given.start else []
    parts = [(ALL, "all", given.minutes, first)] if given.minutes else []
    then = [f"start={given.folder / 'all' / 'export'}"] if given.minutes else first
    parts.append((given.decoder, "decoder", given.decoder_minutes, then))
    recipes = [
        read_recipe(
            AutoencoderRecipe,
            path,
            [*given.changes, f"run.dir={given.folder / part}", f"train.minutes={minutes}", *start],
        )
        for path, part, minutes, start in parts
    ]
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    group = join(recipes[0].run.device)
    pixels = draw(given.library, given.num, group.device, given.patterns)
    for recipe in recipes:
        progress = train_autoencoder(recipe, group.device, Drawn(pixels, recipe).pictures)
        print(f"{recipe.run.dir}  step {progress.step}, {progress.samples} crops, {progress.seconds:.0f} s", flush=True)
        if progress.stopped:
            return exit_code(stopped=True)
    moves = channel_moves(given.folder / "decoder" / "export", as_pictures(pixels[:MOVED]))
    with whole_file(given.folder / "channels.json") as temporary:
        temporary.write_text(json.dumps(moves) + "\n", encoding="utf-8")
    print(f"train.channel_weights = {moves['weights']}")
    return 0


def draw(which: str, num: int, device: torch.device, patterns: float = 0.0) -> Tensor:
    """Pictures of free scenes on the device, drawn by every core; at least `patterns` of them, 0 to 1, have a pattern
    for a background, where one scene in six has."""
    with_patterns = round(patterns * num)
    parts = list(_drawn(which, num - with_patterns, 77, ()))
    parts += islice(_drawn(which, 10 * with_patterns, 78, PATTERNS), with_patterns)
    logger.info("drew %d pictures", len(parts))
    return torch.from_numpy(np.stack(parts)).to(device)


def _drawn(which: str, num: int, seed: int, backgrounds: tuple[str, ...]) -> Iterator[np.ndarray]:
    for chunk in drawn_chunks(library(which).folder, num, seed, ((SIDE, SIDE),), backgrounds=backgrounds):
        for pixels, _ in chunk.values():
            yield from pixels


def as_pictures(pixels: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) in -1..1."""
    return (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Drawn:
    """Crops of pictures that lie on the device, each the busiest of a few, by the numbers of their steps."""

    pixels: Tensor
    recipe: AutoencoderRecipe

    @property
    def pictures(self) -> Pictures:
        """As the training loop takes them."""
        return Pictures(
            batches=self.batches,
            fixed=lambda steps: [self.crops(OTHER_STEPS + step) for step in range(steps)],
            whole=lambda: as_pictures(self.pixels[:MEASURED]).split(1),
        )

    def batches(self, first: int) -> Iterator[Tensor]:
        """Those of step `first`, `first` + 1, ..."""
        return map(self.crops, count(first))

    def crops(self, step: int) -> Tensor:
        """(B, 3, S, S) in -1..1 of one step."""
        number, height, width, _ = self.pixels.shape
        device, side = self.pixels.device, self.recipe.crops.side
        generator = torch.Generator(device).manual_seed(self.recipe.run.seed * 2**32 + step)
        many = (self.recipe.crops.pictures * self.recipe.crops.crops, BUSY_CHOICES)

        def some(below: int, shape: tuple[int, ...]) -> Tensor:
            return torch.randint(below, shape, generator=generator, device=device)

        rows = some(number, many[:1])
        y, x = some(height - side + 1, many), some(width - side + 1, many)
        busy = self._cut(rows[:, None], y, x, 2).float().std(dim=(2, 3)).sum(-1).argmax(1, keepdim=True)
        return as_pictures(self._cut(rows, y.gather(1, busy)[:, 0], x.gather(1, busy)[:, 0], 1))

    def _cut(self, rows: Tensor, y: Tensor, x: Tensor, step: int) -> Tensor:
        """Every `step`-th pixel of the crops at (y, x) of pictures `rows`, any shape: (..., S / step, S / step, 3)."""
        along = torch.arange(0, self.recipe.crops.side, step, device=self.pixels.device)
        down, across = (y[..., None] + along)[..., :, None], (x[..., None] + along)[..., None, :]
        return self.pixels[rows[..., None, None], down, across]


@torch.no_grad()
def channel_moves(folder: Path, pictures: Tensor) -> dict[str, list[float]]:
    """How far half a standard deviation of noise on one latent channel moves decoded pixels, on average, and the
    weights, with the mean 1, that follow for the denoiser's loss."""
    vae = AutoencoderKLFlux2.from_pretrained(folder).to(pictures.device)
    latents = autoencoder.encode(vae, pictures)
    grid = (pictures.shape[2] // 16, pictures.shape[3] // 16)
    plain = autoencoder.decode(vae, latents, grid)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents.device)
    moves = []
    for channel in range(vae.config.latent_channels):
        nudged = latents.clone()
        nudged[..., 4 * channel : 4 * channel + 4] += NUDGE * noise[..., 4 * channel : 4 * channel + 4]
        moves.append(float((autoencoder.decode(vae, nudged, grid) - plain).abs().mean()))
    powers = [move**POWER for move in moves]
    mean = sum(powers) / len(powers)
    return {"moves": [round(move, 4) for move in moves], "weights": [round(power / mean, 2) for power in powers]}


if __name__ == "__main__":
    sys.exit(main())
