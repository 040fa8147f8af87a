"""Measures the denoiser's one-step prediction at each noise level, which is stable with only a few images.

It prints one JSON object: for each noise level, the peak signal-to-noise ratio (dB) between the image that one call of
the denoiser predicts from the noisy latents of a held-out scene, with its dense caption and without guidance, and the
decoded true latents. `quality.py` gives a yes or no per criterion; this gives a number per image.

    python benchmarks/levels.py [--model nano] [--num 24] [--seed 11] [--sources common] [--levels 0.24 0.43 ...]
"""

import argparse
import json
import statistics
import sys
import time

import torch
from autoencoder import psnr
from machine import describe_machine
from PIL import Image

from leanlens.evaluate.questions import Question, held_out_questions
from leanlens.flow.path import noised, picture_at
from leanlens.models.vae import decode, encode, token_pixels
from leanlens.pipeline.image import from_pixels, to_pixels
from leanlens.pipeline.open import open_model
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.scenes.icons import library

LEVELS = (0.15, 0.24, 0.43, 0.6, 0.75, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--num", type=int, default=24)
    parser.add_argument("--seed", type=int, default=11, help="of the scenes; the card's tables have 0")
    parser.add_argument("--sources", default="common")
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS, help="shares of noise, between 0 and 1")
    given = parser.parse_args()
    if given.num < 1 or not all(0 < level < 1 for level in given.levels):
        parser.error(f"--num {given.num} --levels {given.levels}: give 1 picture at least, and levels between 0 and 1")
    began, opened = time.time(), open_model(given.model, "cpu")
    questions = held_out_questions(given.num, given.seed, library(given.sources))
    found = [predicted(opened.pipeline, one, number, given.levels) for number, one in enumerate(questions)]
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": describe_machine(),
        "model": opened.identity(),
        "pictures": given.num,
        "seed": given.seed,
        "dB": {level: round(statistics.mean(one[level] for one in found), 2) for level in given.levels},
        "seconds": round(time.time() - began, 1),
    }
    print(json.dumps(result, indent=1))


@torch.inference_mode()
def predicted(pipeline: LensPipeline, question: Question, seed: int, levels: tuple[float, ...]) -> dict[float, float]:
    """dB at each level of one scene's picture."""
    assert question.picture is not None
    pixels, side = to_pixels(question.picture), token_pixels(pipeline.vae)
    grid = (pixels.shape[2] // side, pixels.shape[3] // side)
    x0 = encode(pipeline.vae, pixels).float()
    text = pipeline.encode_prompt(question.prompt)[0].trimmed().to("cpu", pipeline.transformer.dtype)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))

    def picture(latents: torch.Tensor) -> Image.Image:
        return from_pixels(decode(pipeline.vae, latents, grid), "pil")[0]

    best, found = picture(x0), {}
    for level in levels:
        t = torch.tensor([level])
        x_t, dtype = noised(x0, noise, t), pipeline.transformer.dtype
        velocity = pipeline.transformer(x_t.to(dtype), text.layers, None, t.to(dtype), [(1, *grid)])
        found[level] = psnr(picture(picture_at(x_t, velocity.float(), t)), best)
    return found


if __name__ == "__main__":
    main()
