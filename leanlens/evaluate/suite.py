"""Defines what an evaluation is made of: suites of prompts, the models that draw them, and the judges of the images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from leanlens.evaluate.metric import Metric
from leanlens.score.protocol import Score

if TYPE_CHECKING:
    from leanlens.evaluate.judges.pairs import PairJudge
    from leanlens.evaluate.set_scores import SetScorer


@dataclass(frozen=True)
class Item:
    """A prompt of a suite with what its judges need to know.

    Attributes:
        id: unique within the suite and the same in every run, such as "00042".
        categories: what the item is tabulated under, such as ("counting",).
        truth: what the prompt states or asks for, as JSON values; each suite documents its form.
        size: (width, height) in pixels of the requested image; None for the model's own.
        picture: the true picture, where there is one.
    """

    id: str
    prompt: str
    categories: tuple[str, ...] = ()
    truth: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    picture: Image.Image | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Judgement:
    """What a judge says of one image.

    Attributes:
        score: criterion -> value, `Failed`, or None where the criterion does not apply.
        raw: what the score was computed from, as JSON values: answers, detections, transcribed text. It is shown in the
            report, so that anyone can check the score.
    """

    score: Score
    raw: Any = None


class Judge(Protocol):
    """Judges images independently: a judgement does not depend on the other images of the call.

    Attributes:
        name: short name for tables and files.
        criteria: the keys of its scores, in the order of tables.
    """

    name: str
    criteria: tuple[str, ...]

    def identity(self) -> dict[str, Any]:
        """Everything that decides a judgement besides image and item, as JSON values: version, weights, settings."""
        ...

    def __call__(self, images: Sequence[Image.Image], items: Sequence[Item]) -> list[Judgement]:
        """A judgement for each image, which was drawn for the item at its place. A failure is a `Failed` in the score.

        Raises:
            ValueError: the lists differ in length, or an item lacks what this judge needs.
        """
        ...


@dataclass(frozen=True)
class Drawn:
    """An image as a model drew it.

    Attributes:
        seconds: from the request to the image, measured; None where nothing was measured.
        reasoned: the record of the rewritten prompt, as JSON values; None where the prompt was drawn as it stands.
        notes: what else a reader of the results should know of this image, as JSON values, such as
            {"truncated": {"tokens": 130, "read": 77}} for a prompt that was longer than a text encoder reads.
    """

    image: Image.Image
    seconds: float | None = None
    reasoned: dict[str, Any] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


class ImageModel(Protocol):
    """Draws the images of one column of the comparison.

    Attributes:
        name: of the column.
    """

    name: str

    def identity(self) -> dict[str, Any]:
        """Everything that decides an image besides item and seed, as JSON values: weights, settings, versions."""
        ...

    def draw(self, item: Item, seed: int) -> Drawn:
        """The image of an item.

        Raises:
            ImageFailed: this item cannot be drawn; other items can.
        """
        ...

    def costs(self) -> dict[str, Any]:
        """What an image costs: `flop`, `parameters`, `weight_bytes`, `peak_bytes` (measured), as far as known."""
        ...

    def close(self) -> None:
        """Free the memory that it holds."""
        ...


class ImageFailed(Exception):
    """An image could not be drawn, and the reason. It counts as failed in every criterion and is listed."""


@dataclass(frozen=True)
class Suite:
    """A benchmark: its prompts, and how its official protocol judges and adds up.

    Attributes:
        name: of the command, such as "geneval".
        title: such as "GenEval".
        images_per_prompt: of the official protocol.
        judges: what judges each image.
        metrics: the numbers of one model, from one list of judgements of each item: judge name -> judgements, one for
            each seed. The first metric is the headline.
        source: where the prompts come from, as JSON values: address, commit, sha256, licence.
        settings: what else decides the prompts, as JSON values.
        deviations: in a sentence each, how this differs from the official protocol.
        higher_is_better: whether a larger headline is better.
        control: the items with another thing of the same kind asked for, by which every row of images is judged again;
            empty where a suite has no such control.
        pair_judges: what compares the images of every two models.
        set_scorers: what scores all images of a model as a set.
        reference: the images that sets are compared with.
        warnings: what the user should know before anything is drawn.
    """

    name: str
    title: str
    items: tuple[Item, ...]
    images_per_prompt: int
    judges: tuple[Judge, ...]
    metrics: Callable[[Sequence[Item], Sequence[dict[str, list[Judgement]]]], list[Metric]]
    source: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    higher_is_better: bool = True
    control: tuple[Item, ...] = ()
    pair_judges: "tuple[PairJudge, ...]" = ()
    set_scorers: "tuple[SetScorer, ...]" = ()
    reference: Callable[[], Sequence[Image.Image]] | None = field(default=None, compare=False)
    warnings: tuple[str, ...] = ()
