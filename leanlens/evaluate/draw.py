"""Draws the images of an evaluation: each prompt with each of its seeds, as typed or as a reasoner rewrites it.

An image is written to disk as soon as it is drawn, under a key of everything that decides it. So an evaluation that was
killed continues where it was, and several processes can draw for one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

import leanlens
from leanlens.evaluate.questions import Question
from leanlens.files import whole_file
from leanlens.pipeline.draw import draw
from leanlens.pipeline.opened_model import OpenedModel
from leanlens.pipeline.reasoned import Reasoned
from leanlens.pipeline.request import ImageRequest
from leanlens.reason import Reasoner, reason_request
from leanlens.store import content_key

SEED_STEP = 1_000_000  # between the seeds of one prompt; neighbouring prompts differ by one


@dataclass(frozen=True)
class Answer:
    """An image with its seed and the record of its rewritten prompt.

    Attributes:
        seed: the seed of the image.
        reasoned: the reasoner's record; None without a reasoner.
    """

    image: Image.Image
    seed: int
    reasoned: Reasoned | None


def ask(
    questions: Sequence[Question],
    seed: int,
    seeds: int,
    reasoner: Reasoner | None,
    steps: int,
    guidance: float,
) -> list[ImageRequest]:
    """The requests, question by question: image j of question i has the seed `seed` + i + j * SEED_STEP."""
    return [
        reason_request(
            reasoner,
            ImageRequest.checked(
                prompt=question.prompt,
                width=question.size[0],
                height=question.size[1],
                num_inference_steps=steps,
                guidance_scale=guidance,
                seed=seed + index + again * SEED_STEP,
            ),
        )
        for index, question in enumerate(questions)
        for again in range(seeds)
    ]


def draw_all(
    opened: OpenedModel,
    requests: Sequence[ImageRequest],
    kept: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Answer]:
    """Generate the image of every request, using the folder `kept` as a cache."""
    answers, found = [], 0
    for index, request in enumerate(requests):
        path = None if kept is None else kept / f"{picture_key(opened, request)}.png"
        image = None if path is None else _read(path)
        found += image is not None
        if image is None:
            image = draw(opened, request).image
            if path is not None:
                _keep(image, path)
        answers.append(Answer(image, request.seed, request.reasoner))
        say(f"drawn {index + 1} of {len(requests)}" + (f", {found} of them before" if found else ""))
    return answers


def picture_key(opened: OpenedModel, request: ImageRequest) -> str:
    """A cache key of everything that determines an image; the record of its rewritten prompt does not."""
    return content_key(
        leanlens=leanlens.__version__,
        request=request.model_dump(mode="json", exclude={"reasoner"}),
        model=opened.identity(),
        run=opened.conditions(),
    )


def _read(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError:  # missing or damaged: it is generated again
        return None


def _keep(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        image.save(temporary, "PNG")


def forget(kept: Path) -> None:
    """Remove the cached images of a finished evaluation, and their folder if it is then empty."""
    for path in kept.glob("*.png"):
        if len(path.stem) == 64:
            path.unlink(missing_ok=True)
    if kept.is_dir() and not any(kept.iterdir()):
        kept.rmdir()
