"""Measures the reconstruction quality of an autoencoder on held-out scenes and small text.

It prints one JSON object: the peak signal-to-noise ratio of held-out scenes (dB, mean and worst image), and the share
of words of a given height that OCR reads in the original and in the reconstruction. FOLDER is an autoencoder or a
pipeline. It needs the extras `eval` and, for words, `ocr`.

    python benchmarks/autoencoder.py FOLDER [--num 64] [--size 256] [--sources full] [--letters 16]
"""

import argparse
import json
import math
import sys
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from machine import describe_machine
from PIL import Image, ImageDraw

from leanlens.models.vae import decode, encode, token_pixels
from leanlens.pipeline.image import from_pixels, to_pixels
from leanlens.scenes.icons import library
from leanlens.scenes.layout import load_font
from leanlens.scenes.render import render
from leanlens.scenes.scene import sample_scene

FIRST_SEED = 9 * 2**32  # of no training set
WORDS = ("OPEN", "SALE", "FRESH", "HELLO", "COFFEE", "BOOKS", "PARK", "MUSIC", "WELCOME", "GARDEN", "EXIT", "LENS")
INKS = (((20, 20, 20), (250, 250, 250)), ((250, 250, 250), (30, 60, 140)), ((160, 30, 30), (255, 244, 214)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--sources", default=None)
    parser.add_argument("--letters", type=int, default=16)
    given = parser.parse_args()
    folder = given.folder / "vae" if (given.folder / "vae").is_dir() else given.folder
    vae = AutoencoderKLFlux2.from_pretrained(folder, torch_dtype=torch.float32).eval()
    shelf = library(given.sources)
    scenes = [sample_scene(FIRST_SEED + at, shelf, "test", given.size) for at in range(given.num)]
    found = [psnr(picture, reconstruct(vae, picture)) for picture in (render(scene, shelf) for scene in scenes)]
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": describe_machine(),
        "parameters": sum(weight.numel() for weight in vae.parameters()),
        "pictures": given.num,
        "size": given.size,
        "library": shelf.fingerprint,
        "psnr_mean": round(sum(found) / len(found), 2),
        "psnr_worst": round(min(found), 2),
    }
    if find_spec("rapidocr"):
        result["letters"] = given.letters
        result["words"] = read_words(vae, given.letters)
    print(json.dumps(result, indent=1))


@torch.no_grad()
def reconstruct(vae: Any, picture: Image.Image) -> Image.Image:
    pixels = to_pixels(picture)
    side = token_pixels(vae)
    grid = (pixels.shape[2] // side, pixels.shape[3] // side)
    return from_pixels(decode(vae, encode(vae, pixels), grid), "pil")[0]


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Of two RGB pictures, dB."""
    error = float((to_pixels(one) - to_pixels(other)).square().mean()) / 4
    return -10 * math.log10(max(error, 1e-10))


def read_words(vae: Any, height: int) -> dict[str, float]:
    """The share of words that OCR reads in pictures with one word of this height, before and after."""
    from leanlens.score.ocr import likeness, read_texts

    pictures = [write_word(word, height, number) for number, word in enumerate(WORDS)]
    return {
        name: sum(likeness(word, read_texts(one) or []) == 1 for word, one in zip(WORDS, row, strict=True)) / len(WORDS)
        for name, row in (("true", pictures), ("reconstruction", [reconstruct(vae, one) for one in pictures]))
    }


def write_word(word: str, height: int, number: int) -> Image.Image:
    """A word in capitals `height` pixels high somewhere on a picture of 256 x 256."""
    ink, paper = INKS[number % len(INKS)]
    picture = Image.new("RGB", (256, 256), paper)
    pen = ImageDraw.Draw(picture)
    size = height
    while pen.textbbox((0, 0), "H", load_font("inter", size), anchor="ls")[1] > -height:
        size += 1
    rng = Random(number)
    font = load_font("inter", size)
    pen.text((rng.randint(8, 248 - round(font.getlength(word))), rng.randint(40, 220)), word, ink, font, anchor="ls")
    return picture


if __name__ == "__main__":
    main()
