"""Scores drawn images, reconstructs true ones, and measures the FID of each row."""

from collections.abc import Callable

import torch
from PIL import Image

from leanlens.evaluate.fid import frechet_distance
from leanlens.evaluate.questions import Question, held_out_questions
from leanlens.models.vae import decode, encode, token_pixels
from leanlens.pipeline.image import from_pixels, to_pixels
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.scenes.icons import Library
from leanlens.score.protocol import Score, Scorer

TOGETHER = 32  # images scored at once
REFERENCE_SEED = 500_000  # added to the seed for the images that FID compares with


def score_images(
    scorer: Scorer, pictures: list[Image.Image], questions: list[Question], name: str, say: Callable[[str], None]
) -> list[Score]:
    """A score for each image; every question has equally many, one after another."""
    each = len(pictures) // len(questions)
    asked = [question for question in questions for _ in range(each)]
    scores: list[Score] = []
    say(f"{name}: scoring")
    for start in range(0, len(pictures), TOGETHER):
        chosen = slice(start, start + TOGETHER)
        prompts, truths = [one.prompt for one in asked[chosen]], [one.truth for one in asked[chosen]]
        scores += scorer(pictures[chosen], prompts, truths)
        say(f"scored {len(scores)} of {len(pictures)}")
    return scores


def reconstruct(opened: OpenedModel, picture: Image.Image) -> Image.Image:
    """A picture through the model's autoencoder and back."""
    vae = opened.pipeline.vae
    pixels = to_pixels(picture).to(vae.device)
    side = token_pixels(vae)
    with torch.inference_mode():
        tokens = encode(vae, pixels)
        return from_pixels(decode(vae, tokens, (pixels.shape[2] // side, pixels.shape[3] // side)), "pil")[0]


def distances(
    pictures: dict[str, list[Image.Image]], num: int, seed: int, library: Library, prompts: str, split: str, size: int
) -> dict[str, float | None]:
    """FID of each row's first seeds against as many other held-out scenes; None for people's prompts and for one."""
    if prompts not in ("dense", "brief") or num < 2:
        return dict.fromkeys(pictures)
    others = held_out_questions(num, seed + REFERENCE_SEED, library, prompts, split, size)
    reference = [question.picture for question in others if question.picture is not None]
    return {name: frechet_distance(row[:: len(row) // num], reference) for name, row in pictures.items()}
