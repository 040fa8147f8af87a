"""Evaluates a model on held-out scenes or people's prompts: asks, draws, scores and computes rates.

Images are drawn by `pipeline.draw`, as for every other interface.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import leanlens
from leanlens.evaluate.draw import Answer, ask, draw_all
from leanlens.evaluate.judge import distances, reconstruct, score_images
from leanlens.evaluate.questions import PROMPTS, Question, questions_from, unknown_concepts
from leanlens.evaluate.rates import compare, count_rates
from leanlens.evaluate.results import Evaluation
from leanlens.files import sha256
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.presets import preset_for
from leanlens.reason import Reasoner
from leanlens.scenes.icons import Library
from leanlens.score.protocol import Scorer

MOST_SEEDS = 1000  # of a prompt


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
        ValueError: an invalid argument, or people's prompts with a row that needs true pictures.
    """
    reasoners = reasoners or {"off": None}
    size = size or int(opened.pipeline.vae.config.sample_size)
    _check(num, seeds, reasoners)
    questions = questions_from(num, seed, library, prompts, split, size, real or reconstruction)
    if missing := unknown_concepts(questions, library):
        say(f"not judged, since the library does not have them: {', '.join(missing)}")
    settings = {
        "leanlens": leanlens.__version__,
        "model": opened.identity(),
        "run": opened.conditions(),
        "library": library.fingerprint,
        "prompts": prompts,
        **({} if prompts in PROMPTS else {"prompts_sha256": sha256(prompts)}),
        "split": split,
        "num": len(questions),
        "seed": seed,
        "seeds": seeds,
        "reason": {word: None if reasoner is None else reasoner.source for word, reasoner in reasoners.items()},
        "size": size,
        **_sampling(opened, steps, guidance),
        **({} if scorer.name == "scene" else {"scorer": scorer.name}),
    }
    answers = _draw_rows(opened, questions, settings, reasoners, kept, say)
    pictures = {name: [answer.image for answer in row] for name, row in answers.items()}
    truths = [question.picture for question in questions if question.picture is not None]
    if reconstruction:
        say(f"reconstructing {len(truths)} pictures")
        pictures["reconstruction"] = [reconstruct(opened, picture) for picture in truths]
    if real:
        pictures["real"] = truths
    scores = {name: score_images(scorer, row, questions, name, say) for name, row in pictures.items()}
    rates = {name: count_rates(row, scorer.criteria, len(questions)) for name, row in scores.items()}
    fid = distances(pictures, len(questions), seed, library, prompts, split, size)
    differences = None
    if len(answers) == 2:
        first, second = (scores[name] for name in answers)
        differences = compare(first, second, scorer.criteria, len(questions), seed)
    return Evaluation(questions, answers, pictures, scores, rates, fid, differences, settings)


def _check(num: int | None, seeds: int, reasoners: Mapping[str, Reasoner | None]) -> None:
    if num is not None and num < 1:
        raise ValueError(f"invalid num {num}: expected a whole number from 1")
    if not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"invalid seeds {seeds}: expected a whole number from 1 to {MOST_SEEDS}")
    if len(reasoners) > 2:
        raise ValueError(f"reasoners has {len(reasoners)} entries; give one, or two to be compared")


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


def _sampling(opened: OpenedModel, steps: int | None, guidance: float | None) -> dict[str, Any]:
    preset = preset_for(opened.name)
    return {
        "steps": steps or preset.num_inference_steps,
        "guidance": preset.guidance_scale if guidance is None else guidance,
    }
