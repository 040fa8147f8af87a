"""A model's answers to held-out scenes or to people's prompts: drawn, scored, written.

Comes in: an opened model and how it is to be asked. Goes out: rates for each criterion, and a folder with
`results.json`, `table.md` and `sheet.png`. The pictures are drawn as every door draws them, by `pipeline.draw`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

import leanlens
from leanlens.evaluate.fid import frechet_distance
from leanlens.evaluate.questions import Question, held_out_questions, people_questions
from leanlens.evaluate.table import Rate, count_rates, rates_as_json, render_table
from leanlens.files import whole_folder
from leanlens.models.vae import decode, encode, token_pixels
from leanlens.pipeline.draw import draw
from leanlens.pipeline.image import from_pixels, to_pixels
from leanlens.pipeline.placement import OpenedModel
from leanlens.pipeline.request import ImageRequest
from leanlens.presets import preset_for
from leanlens.scenes.icons import Library
from leanlens.score.protocol import Score, Scorer

SHOWN = 24  # pictures on the contact sheet
CELL = 200  # pixels of its cells
REFERENCE_SEED = 500_000  # added to the seed for the pictures that FID compares with


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        pictures, scores, rates, fid: by row: the model's name, "real", "reconstruction".
        settings: everything that decides the numbers.
    """

    questions: list[Question]
    pictures: dict[str, list[Image.Image]]
    scores: dict[str, list[Score]]
    rates: dict[str, dict[str, Rate | None]]
    fid: dict[str, float | None]
    settings: dict[str, Any]


def evaluate_scenes(
    opened: OpenedModel,
    num: int,
    seed: int,
    library: Library,
    scorer: Scorer,
    prompts: str = "dense",
    split: str = "test",
    steps: int | None = None,
    guidance: float | None = None,
    size: int | None = None,
    real: bool = False,
    reconstruction: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Ask, draw and score.

    Args:
        opened: the model.
        num: how many prompts, one picture each.
        seed: of the questions; picture i is drawn with seed + i.
        library: where scenes are drawn from; the scorer should know the same one.
        prompts: "dense" or "brief" captions of held-out scenes, or "human".
        steps, guidance: the model's own without them.
        size: base of the canvas in pixels; the model's own without it.
        real: also score the scenes' true pictures: how far the scorer itself can be trusted.
        reconstruction: also score these after the model's autoencoder: the best that any denoiser could do.
        say: told of progress.

    Raises:
        ValueError: an argument that is not accepted, or human prompts with a row that needs true pictures.
    """
    size = size or int(opened.pipeline.vae.config.sample_size)
    questions = _questions(num, seed, library, prompts, split, size, real or reconstruction)
    settings = {
        "leanlens": leanlens.__version__,
        "model": opened.identity(),
        "run": opened.conditions(),
        "library": library.fingerprint,
        "prompts": prompts,
        "split": split,
        "num": num,
        "seed": seed,
        "size": size,
        **_sampling(opened, steps, guidance),
    }
    pictures = {opened.name: _draw_all(opened, questions, settings, say)}
    truths = [question.picture for question in questions if question.picture is not None]
    if reconstruction:
        say(f"reconstructing {len(truths)} pictures")
        pictures["reconstruction"] = [reconstruct(opened, picture) for picture in truths]
    if real:
        pictures["real"] = truths
    say("scoring")
    texts, facts = [question.prompt for question in questions], [question.truth for question in questions]
    scores = {name: scorer(row, texts, facts) for name, row in pictures.items()}
    rates = {name: count_rates(row, scorer.criteria) for name, row in scores.items()}
    fid = _distances(pictures, num, seed, library, prompts, split, size)
    return Evaluation(questions, pictures, scores, rates, fid, settings)


def _questions(
    num: int, seed: int, library: Library, prompts: str, split: str, size: int, needs_truth: bool
) -> list[Question]:
    if num < 1:
        raise ValueError(f"num {num} is not accepted; give a whole number from 1")
    if prompts == "human":
        if needs_truth:
            raise ValueError("human prompts have no true pictures; leave real and reconstruction out")
        return people_questions(num, size)
    if prompts not in ("dense", "brief"):
        raise ValueError(f"prompts {prompts!r} is not accepted; use dense, brief or human")
    return held_out_questions(num, seed, library, prompts, split, size)


def _sampling(opened: OpenedModel, steps: int | None, guidance: float | None) -> dict[str, Any]:
    preset = preset_for(opened.name)
    own_steps = 4 if opened.name == "toy" else preset.num_inference_steps
    return {"steps": steps or own_steps, "guidance": preset.guidance_scale if guidance is None else guidance}


def _draw_all(
    opened: OpenedModel, questions: list[Question], settings: dict[str, Any], say: Callable[[str], None]
) -> list[Image.Image]:
    drawn = []
    for index, question in enumerate(questions):
        request = ImageRequest.checked(
            prompt=question.prompt,
            width=question.size[0],
            height=question.size[1],
            num_inference_steps=settings["steps"],
            guidance_scale=settings["guidance"],
            seed=settings["seed"] + index,
        )
        drawn.append(draw(opened, request).image)
        say(f"drawn {index + 1} of {len(questions)}")
    return drawn


def reconstruct(opened: OpenedModel, picture: Image.Image) -> Image.Image:
    """A picture through the model's autoencoder and back."""
    vae = opened.pipeline.vae
    pixels = to_pixels(picture).to(vae.device)
    side = token_pixels(vae)
    with torch.inference_mode():
        tokens = encode(vae, pixels)
        return from_pixels(decode(vae, tokens, (pixels.shape[2] // side, pixels.shape[3] // side)), "pil")[0]


def _distances(
    pictures: dict[str, list[Image.Image]], num: int, seed: int, library: Library, prompts: str, split: str, size: int
) -> dict[str, float | None]:
    """FID of each row against as many other held-out scenes; none for human prompts, or for a single picture."""
    if prompts == "human" or num < 2:
        return dict.fromkeys(pictures)
    others = held_out_questions(num, seed + REFERENCE_SEED, library, prompts, split, size)
    reference = [question.picture for question in others if question.picture is not None]
    return {name: frechet_distance(row, reference) for name, row in pictures.items()}


def write_evaluation(done: Evaluation, folder: Path, beside: dict[str, dict[str, Rate | None]] | None = None) -> None:
    """Write `results.json`, `table.md` and `sheet.png` into a new folder, all of them or none.

    Args:
        beside: further columns of the table, by name.

    Raises:
        ValueError: the folder exists and is not empty.
    """
    rows = {**done.rates, **(beside or {})}
    results = {
        "settings": done.settings,
        "rates": {name: rates_as_json(rates) for name, rates in done.rates.items()},
        "fid": done.fid,
        "pictures": [
            {
                "prompt": question.prompt,
                "seed": question.seed,
                "truth": question.truth,
                "scores": {name: row[index] for name, row in done.scores.items()},
            }
            for index, question in enumerate(done.questions)
        ],
    }
    with whole_folder(folder) as temporary:
        text = json.dumps(results, indent=1, ensure_ascii=False)
        (temporary / "results.json").write_text(text + "\n", encoding="utf-8")
        (temporary / "table.md").write_text(render_table(rows, done.fid), encoding="utf-8")
        name = next(iter(done.pictures))
        draw_sheet(done.pictures[name], done.questions, done.scores[name]).save(temporary / "sheet.png")


def draw_sheet(pictures: list[Image.Image], questions: list[Question], scores: list[Score]) -> Image.Image:
    """The first pictures, each above the start of its prompt, what it meets in green and what it does not in red."""
    shown = min(SHOWN, len(pictures))
    columns = min(6, shown)
    sheet = Image.new("RGB", (columns * CELL, -(-shown // columns) * (CELL + 60)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for index in range(shown):
        x, y = index % columns * CELL, index // columns * (CELL + 60)
        picture = pictures[index].copy()
        picture.thumbnail((CELL - 8, CELL - 8))
        sheet.paste(picture, (x + (CELL - picture.width) // 2, y + (CELL - picture.height) // 2))
        pen.text((x + 4, y + CELL), questions[index].prompt[:32], (40, 40, 40))
        judged = {name: value for name, value in scores[index].items() if value is not None}
        for line, (met, ink) in enumerate(((True, (0, 120, 40)), (False, (190, 20, 20)))):
            names = ", ".join(name.replace("_", " ") for name, value in judged.items() if (value >= 1) == met)
            pen.text((x + 4, y + CELL + 16 + 16 * line), names[:33], ink)
    return sheet
