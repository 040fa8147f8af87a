"""A model's answers to held-out scenes or to people's prompts: drawn, scored, written.

Comes in: an opened model and how it is to be asked. Goes out: rates for each criterion, and a folder with
`results.json`, `table.md` and `sheet.png`. The pictures are drawn as every API draws them, by `pipeline.draw`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import leanlens
from leanlens.evaluate.draw import Answer, ask, draw_all, forget
from leanlens.evaluate.fid import frechet_distance
from leanlens.evaluate.questions import Question, held_out_questions, people_questions
from leanlens.evaluate.rates import Difference, Rate, compare, count_rates, differences_as_json, rates_as_json
from leanlens.evaluate.sheet import draw_sheet
from leanlens.evaluate.table import render_table
from leanlens.files import sha256, whole_folder
from leanlens.models.vae import decode, encode, token_pixels
from leanlens.pipeline.image import from_pixels, to_pixels
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.presets import preset_for
from leanlens.reason import Reasoner
from leanlens.scenes.icons import Library
from leanlens.score.protocol import Score, Scorer

REFERENCE_SEED = 500_000  # added to the seed for the pictures that FID compares with
SCENES = 200  # how many held-out scenes where nobody says
MOST_SEEDS = 1000  # of a prompt


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        answers: of the model, by row: its name, or the words of the reasoners where there are several; question by
            question and seed by seed.
        pictures, scores, rates, fid: by row: those of `answers`, "real", "reconstruction".
        differences: the second row of `answers` less the first, by criterion; None where there is one.
        settings: everything that decides the numbers.
    """

    questions: list[Question]
    answers: dict[str, list[Answer]]
    pictures: dict[str, list[Image.Image]]
    scores: dict[str, list[Score]]
    rates: dict[str, dict[str, Rate | None]]
    fid: dict[str, float | None]
    differences: dict[str, Difference | None] | None
    settings: dict[str, Any]


def evaluate_scenes(
    opened: OpenedModel,
    num: int | None,
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
    seeds: int = 1,
    reasoners: Mapping[str, Reasoner | None] | None = None,
    kept: Path | None = None,
) -> Evaluation:
    """Ask, draw and score.

    Args:
        opened: the model.
        num: how many prompts; None for all of a file, or 200 scenes.
        seed: of the questions; picture i is drawn with seed + i, and again with a million more for each further seed.
        library: where scenes are drawn from; the scorer should know the same one.
        prompts: "dense" or "brief" captions of held-out scenes, "human", or the path of a file of prompts.
        steps, guidance: the model's own without them.
        size: base of the canvas in pixels; the model's own without it.
        real: also score the scenes' true pictures: how far the scorer itself can be trusted.
        reconstruction: also score these after the model's autoencoder: the best that any denoiser could do.
        say: told of progress.
        seeds: pictures of each prompt.
        reasoners: word -> what rewrites the prompts, None for nothing; two are compared. As typed without it.
        kept: folder in which each picture is put once it is drawn, and found again by the next evaluation.

    Raises:
        ValueError: an argument that is not accepted, or people's prompts with a row that needs true pictures.
    """
    reasoners = reasoners or {"off": None}
    size = size or int(opened.pipeline.vae.config.sample_size)
    _check(num, seeds, reasoners)
    questions = _questions(num, seed, library, prompts, split, size, real or reconstruction)
    _say_what_is_not_judged(questions, library, say)
    settings = {
        "leanlens": leanlens.__version__,
        "model": opened.identity(),
        "run": opened.conditions(),
        "library": library.fingerprint,
        "prompts": prompts,
        **({} if prompts in WORDS else {"prompts_sha256": sha256(prompts)}),
        "split": split,
        "num": len(questions),
        "seed": seed,
        "seeds": seeds,
        "reason": {word: None if reasoner is None else reasoner.source for word, reasoner in reasoners.items()},
        "size": size,
        **_sampling(opened, steps, guidance),
    }
    answers = _draw_rows(opened, questions, settings, reasoners, kept, say)
    pictures = {name: [answer.image for answer in row] for name, row in answers.items()}
    truths = [question.picture for question in questions if question.picture is not None]
    if reconstruction:
        say(f"reconstructing {len(truths)} pictures")
        pictures["reconstruction"] = [reconstruct(opened, picture) for picture in truths]
    if real:
        pictures["real"] = truths
    scores = {name: _score(scorer, row, questions, name, say) for name, row in pictures.items()}
    rates = {name: count_rates(row, scorer.criteria, len(questions)) for name, row in scores.items()}
    fid = _distances(pictures, len(questions), seed, library, prompts, split, size)
    differences = None
    if len(answers) == 2:
        first, second = (scores[name] for name in answers)
        differences = compare(first, second, scorer.criteria, len(questions), seed)
    return Evaluation(questions, answers, pictures, scores, rates, fid, differences, settings)


WORDS = ("dense", "brief", "human")


def _check(num: int | None, seeds: int, reasoners: Mapping[str, Reasoner | None]) -> None:
    if num is not None and num < 1:
        raise ValueError(f"num {num} is not accepted; give a whole number from 1")
    if not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"seeds {seeds} is not accepted; give a whole number from 1 to {MOST_SEEDS}")
    if len(reasoners) > 2:
        raise ValueError(f"reasoners has {len(reasoners)} entries; give one, or two to be compared")


def _questions(
    num: int | None, seed: int, library: Library, prompts: str, split: str, size: int, needs_truth: bool
) -> list[Question]:
    if prompts in ("dense", "brief"):
        return held_out_questions(SCENES if num is None else num, seed, library, prompts, split, size)
    if prompts != "human" and not Path(prompts).is_file():
        raise ValueError(
            f"prompts {prompts!r} is not accepted; use {', '.join(WORDS)} or the path of a file of prompts"
        )
    if needs_truth:
        what = "human prompts" if prompts == "human" else f"the prompts of {prompts}"
        raise ValueError(f"{what} have no true pictures; leave real and reconstruction out")
    return people_questions(num, size) if prompts == "human" else people_questions(num, size, prompts)


def _draw_rows(
    opened: OpenedModel,
    questions: list[Question],
    settings: dict[str, Any],
    reasoners: Mapping[str, Reasoner | None],
    kept: Path | None,
    say: Callable[[str], None],
) -> dict[str, list[Answer]]:
    """A row for each reasoner, under the model's name where there is one."""
    rows: dict[str, list[Answer]] = {}
    for word, reasoner in reasoners.items():
        name = word if len(reasoners) > 1 else opened.name
        seed, seeds = settings["seed"], settings["seeds"]
        requests = ask(questions, seed, seeds, reasoner, settings["steps"], settings["guidance"])
        say(f"{name}: {len(requests)} pictures")
        rows[name] = draw_all(opened, requests, kept, say)
    return rows


def _say_what_is_not_judged(questions: list[Question], library: Library, say: Callable[[str], None]) -> None:
    stated = [thing for question in questions for thing in question.truth.get("objects", [])]
    missing = {one["concept"] for one in stated if one.get("category") != "sign"} - set(library.concepts)
    if missing:
        say(f"not judged, since the library does not have them: {', '.join(sorted(missing))}")


def _score(
    scorer: Scorer, pictures: list[Image.Image], questions: list[Question], name: str, say: Callable[[str], None]
) -> list[Score]:
    each = len(pictures) // len(questions)
    scores: list[Score] = []
    say(f"{name}: scoring")
    for index, picture in enumerate(pictures):
        question = questions[index // each]
        scores += scorer([picture], [question.prompt], [question.truth])
        say(f"scored {index + 1} of {len(pictures)}")
    return scores


def _sampling(opened: OpenedModel, steps: int | None, guidance: float | None) -> dict[str, Any]:
    preset = preset_for(opened.name)
    own_steps = 4 if opened.name == "toy" else preset.num_inference_steps
    return {"steps": steps or own_steps, "guidance": preset.guidance_scale if guidance is None else guidance}


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
    """FID of each row's first seeds against as many other held-out scenes; None for people's prompts and for one."""
    if prompts not in ("dense", "brief") or num < 2:
        return dict.fromkeys(pictures)
    others = held_out_questions(num, seed + REFERENCE_SEED, library, prompts, split, size)
    reference = [question.picture for question in others if question.picture is not None]
    return {name: frechet_distance(row[:: len(row) // num], reference) for name, row in pictures.items()}


def write_evaluation(
    done: Evaluation,
    folder: Path,
    beside: dict[str, dict[str, Rate | None]] | None = None,
    kept: Path | None = None,
) -> None:
    """Write `results.json`, `table.md` and `sheet.png` into a new folder, all of them or none.

    Args:
        beside: further columns of the table, by name.
        kept: folder of the pictures that `evaluate_scenes` kept; they are removed once the folder is written.

    Raises:
        ValueError: the folder exists and is not empty.
    """
    with whole_folder(folder) as temporary:
        text = json.dumps(results_of(done), indent=1, ensure_ascii=False)
        (temporary / "results.json").write_text(text + "\n", encoding="utf-8")
        rows = {**done.rates, **(beside or {})}
        (temporary / "table.md").write_text(render_table(rows, done.fid, done.differences), encoding="utf-8")
        shown = {name: done.pictures[name] for name in done.answers}
        draw_sheet(shown, done.questions, done.scores).save(temporary / "sheet.png")
    if kept is not None:
        forget(kept)


def results_of(done: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON values: settings, rates, and every picture with its prompt, its truth and its scores."""
    compared = {} if done.differences is None else {"differences": differences_as_json(done.differences)}
    return {
        "settings": done.settings,
        "rates": {name: rates_as_json(rates) for name, rates in done.rates.items()},
        **compared,
        "fid": done.fid,
        "pictures": [_picture(done, index) for index in range(len(next(iter(done.answers.values()))))],
    }


def _picture(done: Evaluation, index: int) -> dict[str, Any]:
    """One picture of each row; true pictures, of which there is one for each prompt, stand with its first seed."""
    seeds = done.settings["seeds"]
    question = done.questions[index // seeds]
    here = {name: row[index] for name, row in done.answers.items()}
    reasoned = {name: one.reasoned.model_dump(mode="json") for name, one in here.items() if one.reasoned is not None}
    at = {name: index // seeds if name not in done.answers else index for name in done.scores}
    return {
        "prompt": question.prompt,
        "seed": question.seed,
        "image_seed": next(iter(here.values())).seed,
        "truth": question.truth,
        **({"reasoned": reasoned} if reasoned else {}),
        "scores": {
            name: row[at[name]] for name, row in done.scores.items() if name in done.answers or index % seeds == 0
        },
    }
