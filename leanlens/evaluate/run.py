"""Runs an evaluation: draws every prompt with every model, judges every image, and writes the results.

Each image and each judgement is kept on disk as soon as it exists, so an evaluation that was stopped continues where it
was, and all tables can be made again from what is kept.
"""

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import leanlens
from leanlens.endpoint import Totals
from leanlens.evaluate.draw import KeptImage, Say, draw_items, find_image, keep_failure
from leanlens.evaluate.duels import Duel, fight
from leanlens.evaluate.judge import forget_judgements, judge_images
from leanlens.evaluate.results_file import FORMAT, ROLES, read_results
from leanlens.evaluate.results_json import as_text
from leanlens.evaluate.set_results import set_scores_of
from leanlens.evaluate.suite import ImageModel, Item, Judgement, Suite
from leanlens.files import read_json, require_writable, whole_file
from leanlens.score.protocol import Failed
from leanlens.store import Store

MOST_SEEDS = 1000  # of a prompt
MOST_SEED = 2**63 - 1  # so that those of all images are below 2^64
SETTINGS, RESULTS, IMAGES, JUDGEMENTS = "evaluation.json", "results.json", "images", "judgements"


@dataclass(frozen=True)
class Row:
    """The images and judgements of one column.

    Attributes:
        role: "model", "reference" for true pictures, or "control".
        identity, costs: as `ImageModel` gives them.
        images: one list for each item, one image for each seed.
        judged: judge name -> one list for each item, one judgement for each seed.
    """

    name: str
    role: str
    identity: dict[str, Any]
    costs: dict[str, Any]
    items: tuple[Item, ...]
    images: list[list[KeptImage]]
    judged: dict[str, list[list[Judgement]]] = field(default_factory=dict)

    def by_item(self) -> list[dict[str, list[Judgement]]]:
        """Judge name -> judgements, for each item."""
        return [{name: rows[index] for name, rows in self.judged.items()} for index in range(len(self.items))]


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        seed, seeds: image j of item i has the seed `seed` + i + j * SEED_STEP, for `seeds` images.
        rows: the models, then references, then controls.
        command: what the suite can be opened from again, as JSON values.
        duels: what judges say of the images of every two models.
        set_scores: row name -> scorer name -> number of all images.
    """

    suite: Suite
    seed: int
    seeds: int
    rows: list[Row]
    command: dict[str, Any]
    duels: list[Duel] = field(default_factory=list)
    set_scores: dict[str, dict[str, float | Failed]] = field(default_factory=dict)

    def models(self) -> list[Row]:
        """The rows that are compared."""
        return [row for row in self.rows if row.role == "model"]


Opener = Callable[[], ImageModel]


def evaluate(
    suite: Suite,
    models: Sequence[Opener],
    out: Path,
    *,
    seed: int = 0,
    seeds: int | None = None,
    references: Sequence[Opener] = (),
    images: Path | None = None,
    command: dict[str, Any] | None = None,
    draw: Callable[..., list[list[KeptImage]]] = draw_items,
    say: Say = lambda text: None,
) -> Evaluation:
    """Draw and judge; `results.write_results` writes the tables.

    Args:
        models, references: each opens a model, which is closed before the next one is opened.
        out: folder of the evaluation; the same one continues it, and models that it has already stay in the results.
        seed: of the first image.
        seeds: images of each prompt; the number of the official protocol without it.
        images: folder of the images, which evaluations may share; `out`/images without it.
        command: what the suite can be opened from again.
        draw: draws the images of a model, as `draw_items` does.
        say: told of progress.

    Raises:
        ValueError: an invalid argument, two models of one name, or a folder of another evaluation.
    """
    seeds = _checked_seeds(suite, seed, seeds)
    begin_folder(out, suite, seed, seeds)
    for text in suite.warnings:
        say(text)
    folder = images or out / IMAGES
    rows: list[Row] = []
    for role, openers, each in (("model", models, seeds), ("reference", references, 1)):
        for opener in openers:
            model = opener()
            try:
                if any(row.name == model.name for row in rows):
                    raise ValueError(f"two models are named {model.name!r}; give each its own, as in NAME=MODEL")
                drawn = gathered(draw(model, suite.items, each, seed, folder, say), out / IMAGES)
                rows.append(Row(model.name, role, model.identity(), model.costs(), suite.items, drawn))
            finally:
                model.close()
    rows = with_earlier_rows(suite, out, rows)
    judged = judged_rows(suite, rows, out, say)
    return _compared(suite, seed, seeds, judged, command or {}, say)


def draw_part(
    suite: Suite,
    models: Sequence[Opener],
    out: Path,
    draw: Callable[..., list[list[KeptImage]]],
    *,
    seed: int = 0,
    seeds: int | None = None,
    images: Path | None = None,
    say: Say = lambda text: None,
) -> None:
    """Draw what `draw` draws of each model, and judge nothing; the arguments are those of `evaluate`.

    Raises:
        ValueError: as `evaluate`.
    """
    seeds = _checked_seeds(suite, seed, seeds)
    begin_folder(out, suite, seed, seeds)
    for opener in models:
        model = opener()
        try:
            draw(model, suite.items, seeds, seed, images or out / IMAGES, say)
        finally:
            model.close()


def _checked_seeds(suite: Suite, seed: int, seeds: int | None) -> int:
    check_seeds(seed, seeds)
    return suite.images_per_prompt if seeds is None else seeds


def check_seeds(seed: int, seeds: int | None) -> None:
    """Raise a ValueError for an invalid seed, or number of images of each prompt."""
    if not 0 <= seed <= MOST_SEED:
        raise ValueError(f"invalid seed {seed}: expected an integer from 0 to 2^63-1")
    if seeds is not None and not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"invalid seeds {seeds}: expected a whole number from 1 to {MOST_SEEDS}")


def with_earlier_rows(suite: Suite, out: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows with those that the folder's results have besides, in the order in which they were first compared."""
    new = {row.name: row for row in rows}
    if (out / RESULTS).is_file():
        kept = read_results(out)
        earlier = {row.name: row for row in _rows_of(suite, kept, out, set(new))}
        first = [name for name in kept["models"] if name in earlier or name in new]
        new = {name: {**earlier, **new}[name] for name in [*first, *new]}
    return sorted(new.values(), key=lambda row: ROLES.index(row.role))


def gathered(images: Sequence[Sequence[KeptImage]], folder: Path) -> list[list[KeptImage]]:
    """The images in the folder of an evaluation, as copies of those in a shared folder."""
    return [[_gather(image, folder) for image in row] for row in images]


def _gather(image: KeptImage, folder: Path) -> KeptImage:
    if image.path is None:
        return keep_failure(folder, image.key, image.seed, image.failed)
    if image.path.parent == folder:
        return image
    path = folder / image.path.name
    if find_image(folder, image.key, image.seed) is None:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            shutil.copyfile(image.path, temporary)
    return replace(image, path=path)


def judged_rows(suite: Suite, rows: Sequence[Row], out: Path, say: Say, retry: bool = True) -> list[Row]:
    """The rows with their judgements, and a control for each model's row where the suite has one."""
    controls = [
        replace(row, name=f"{row.name}, control", role="control", items=suite.control, costs={})
        for row in rows
        if row.role == "model" and suite.control
    ]
    store = Store(out / JUDGEMENTS)
    found = []
    for row in [*rows, *controls]:
        say(f"{row.name}: judging")
        judged = {judge.name: judge_images(judge, row.items, row.images, store, say, retry) for judge in suite.judges}
        found.append(replace(row, judged=judged))
    return found


def begin_folder(out: Path, suite: Suite, seed: int, seeds: int) -> None:
    """Make the folder of an evaluation, or check that it belongs to this one.

    Raises:
        ValueError: it holds another evaluation, or something else, or cannot be written.
    """
    asked = {
        "format": FORMAT,
        "leanlens": leanlens.__version__,
        "suite": suite.name,
        "source": suite.source,
        "settings": suite.settings,
        "num": len(suite.items),
        "seed": seed,
        "seeds": seeds,
    }
    path = out / SETTINGS
    if path.is_file():
        kept = read_json(path)
        for name, value in asked.items():
            if not isinstance(kept, dict) or kept.get(name) != value:
                was = kept.get(name) if isinstance(kept, dict) else kept
                raise ValueError(f"out {out} holds an evaluation with {name} {was}, not {value}; give another folder")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out {out} exists already; give a path that does not exist, or an empty folder")
    require_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(as_text(asked), encoding="utf-8")


def rebuilt(suite: Suite, out: Path, again: Sequence[str] = (), say: Say = lambda text: None) -> Evaluation:
    """A finished evaluation from what its folder keeps, without opening a model.

    Args:
        again: ids of items whose images are judged anew.

    Raises:
        ValueError: the folder holds no finished evaluation of the suite, an image is missing, or an unknown id.
    """
    kept = read_results(out)
    ids = {item.id: index for index, item in enumerate(suite.items)}
    for one in again:
        if one not in ids:
            raise ValueError(f"invalid item {one!r}: expected an id of the evaluation, such as {next(iter(ids))}")
    if [row["id"] for row in kept["items"]] != list(ids):
        raise ValueError(f"out {out} holds other prompts than suite {suite.name} now has")
    rows = _rows_of(suite, kept, out)
    store = Store(out / JUDGEMENTS)
    for one in again:
        for row in rows:
            items = [suite.items[ids[one]], *([suite.control[ids[one]]] if suite.control else [])]
            for item in items:
                forget_judgements(suite.judges, item, row.images[ids[one]], store)
    judged = judged_rows(suite, rows, out, say, retry=False)
    about = kept["suite"]
    return _compared(suite, about["seed"], about["images_per_prompt"], judged, about["command"], say)


def _compared(suite: Suite, seed: int, seeds: int, rows: list[Row], command: dict[str, Any], say: Say) -> Evaluation:
    """The evaluation of judged rows: pairs are compared, and sets scored."""
    duels = fight(suite.pair_judges, [row for row in rows if row.role == "model"], say)
    scores = set_scores_of(suite.set_scorers, suite.reference, rows, say)
    _finish_judges(suite, say)
    return Evaluation(suite, seed, seeds, rows, command, duels, scores)


def _finish_judges(suite: Suite, say: Say) -> None:
    """End the judges that run in a process of their own, and say what those at endpoints took."""
    judges: list[Any] = [*suite.judges, *suite.pair_judges]
    for judge in judges:
        totals: Totals | None = getattr(judge, "totals", None)
        if totals is not None and totals.answered + sum(totals.failed.values()):
            cost = f", cost {totals.cost:.4g}" if totals.cost else ""
            say(
                f"{judge.name}: {totals.answered} answered, {totals.cached} of them kept before, "
                f"{sum(totals.failed.values())} failed; {totals.prompt_tokens:,} tokens read, "
                f"{totals.completion_tokens:,} written{cost}"
            )
        close = getattr(judge, "close", None)
        if close is not None:
            close()


def _rows_of(suite: Suite, kept: dict[str, Any], out: Path, without: Collection[str] = ()) -> list[Row]:
    """The rows of `results.json` with their images, but controls and those of some names."""
    try:
        return [
            Row(name, one["role"], one["identity"], one["costs"], suite.items, _kept_images(kept, name, out))
            for name, one in kept["models"].items()
            if one["role"] != "control" and name not in without
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{out / RESULTS} is damaged: {type(error).__name__}: {error}") from None


def _kept_images(kept: dict[str, Any], name: str, out: Path) -> list[list[KeptImage]]:
    folder, rows = out / IMAGES, []
    for item in kept["items"]:
        row = []
        for one in item["images"][name]:
            found = find_image(folder, one["key"], one["seed"], with_failed=True)
            if found is None:
                raise ValueError(f"image {folder / one['key']}.png is missing; run the evaluation again to draw it")
            row.append(found)
        rows.append(row)
    return rows
