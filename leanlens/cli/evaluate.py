"""Implements `leanlens evaluate`, which draws the prompts of a suite with models and compares the judged images."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from leanlens.cli import options as opt
from leanlens.cli.evaluate_models import (
    columns_of,
    folders_of,
    opener_of,
    openers_elsewhere,
    own_size,
    references_of,
    require_own_names,
)
from leanlens.cli.evaluate_scorers import scorers
from leanlens.cli.evaluate_table import table
from leanlens.cli.evaluate_vote import vote
from leanlens.cli.say import say
from leanlens.evaluate.suites.open import SUITES, open_suite
from leanlens.files import read_json, require_writable
from leanlens.plan.options import LoadOptions

if TYPE_CHECKING:
    from leanlens.evaluate.suites.options import SuiteOptions

ANSWERS = "answers"  # folder in that of an evaluation

app = typer.Typer(no_args_is_help=True, help="Judge models by what they draw.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def scenes(
    out: opt.ResultsFolder,
    model: opt.ComparedModels = None,
    num: opt.NumPrompts = None,
    seeds: opt.SeedsOfPrompt = 1,
    seed: opt.EvaluationSeed = 0,
    prompts: opt.PromptKind = "dense",
    judge: opt.Judges = None,
    pairs: opt.Pairs = False,
    reason: opt.ComparedReasons = None,
    reason_prompt: opt.ReasonPrompt = None,
    images: opt.ImageFolders = None,
    real: opt.Real = False,
    reconstruction: opt.Reconstruction = False,
    beside: opt.Beside = None,
    steps: opt.Steps = None,
    cfg: opt.Cfg = None,
    size: opt.Canvas = None,
    sources: opt.Sources = None,
    scorer: opt.ScorerNames = None,
    keep: opt.KeptImages = None,
    device: opt.EvaluationDevices = None,
    shard: opt.Shard = None,
    dtype: opt.Dtype = "auto",
) -> None:
    """Draw held-out or people's prompts and score them: objects, counts, colours, positions, style, text, background.

    Needs the extra `eval`, and `ocr` to judge text.
    Images and judgements are kept in --out as soon as they exist; run the command again to resume.
    """
    others = {name: rates for path in beside or [] for name, rates in _read_beside(path).items()}
    compared = _Compared(model, reason, reason_prompt, images, device, dtype, steps, cfg)
    options = _options(
        num=num, seed=seed, size=compared.own_size() if size is None else size, prompts=prompts, library=sources,
        scorers=tuple(scorer or ["scene"]), needs_truth=real or reconstruction, **_judging(judge, pairs, out),
    )  # fmt: skip
    references = (real, reconstruction)
    _evaluate("scenes", options, out, compared, references, seed=seed, seeds=seeds, keep=keep, shard=shard)
    for name, rates in others.items():
        print(f"\n{name}:\n\n{rates}", end="")


@app.command()
def fresh(
    out: opt.ResultsFolder,
    seed: opt.PublishedDate,
    model: opt.ComparedModels = None,
    num: opt.NumPrompts = None,
    seeds: opt.SeedsOfPrompt = 1,
    prompts: opt.FreshKind = "drawings",
    judge: opt.Judges = None,
    pairs: opt.Pairs = False,
    reason: opt.ComparedReasons = None,
    reason_prompt: opt.ReasonPrompt = None,
    images: opt.ImageFolders = None,
    steps: opt.Steps = None,
    cfg: opt.Cfg = None,
    size: opt.Canvas = None,
    sources: opt.Sources = None,
    scorer: opt.ScorerNames = None,
    keep: opt.KeptImages = None,
    device: opt.EvaluationDevices = None,
    shard: opt.Shard = None,
    dtype: opt.Dtype = "auto",
) -> None:
    """Compare models on new prompts that are made from a published date, so that no model can have been tuned to them.

    Anyone makes the same prompts from the same date and icons. Drawings are judged exactly; photographs by --judge.
    """
    compared = _Compared(model, reason, reason_prompt, images, device, dtype, steps, cfg)
    options = _options(
        num=num, date=seed, size=compared.own_size() if size is None else size, prompts=prompts, library=sources,
        scorers=tuple(scorer or ["scene"]), **_judging(judge, pairs, out),
    )  # fmt: skip
    _evaluate("fresh", options, out, compared, seed=0, seeds=seeds, keep=keep, shard=shard)


def _suite_command(name: str) -> Callable[..., None]:
    """The command of a suite whose prompts are published, or are the user's own."""

    def command(
        out: opt.ResultsFolder,
        model: opt.ComparedModels = None,
        num: opt.NumPrompts = None,
        seeds: opt.SeedsOfSuite = None,
        seed: opt.EvaluationSeed = 0,
        prompts: opt.SuitePrompts = None,
        judge: opt.Judges = None,
        pairs: opt.Pairs = False,
        scorer: opt.ScorerCommand = None,
        data: opt.SuiteData = None,
        reason: opt.ComparedReasons = None,
        reason_prompt: opt.ReasonPrompt = None,
        images: opt.ImageFolders = None,
        steps: opt.Steps = None,
        cfg: opt.Cfg = None,
        size: opt.SuiteSize = None,
        keep: opt.KeptImages = None,
        device: opt.EvaluationDevices = None,
        shard: opt.Shard = None,
        dtype: opt.Dtype = "auto",
    ) -> None:
        options = _options(
            num=num, seed=seed, size=size, prompts=prompts, data=data, scorer=scorer, **_judging(judge, pairs, out)
        )
        compared = _Compared(model, reason, reason_prompt, images, device, dtype, steps, cfg)
        _evaluate(name, options, out, compared, seed=seed, seeds=seeds, keep=keep, shard=shard)

    return command


for _name, _text in SUITES.items():
    if _name not in ("scenes", "fresh"):
        app.command(_name, help=f"{_text[0].upper()}{_text[1:]}.")(_suite_command(_name))


@app.command()
def prompts(
    suite: opt.SuiteName,
    out: opt.PromptsFile,
    num: opt.NumPrompts = None,
    seeds: opt.SeedsOfSuite = None,
    seed: opt.PromptsSeed = "0",
    prompts: opt.SuitePrompts = None,
    size: opt.SuiteSize = None,
    data: opt.SuiteData = None,
    sources: opt.Sources = None,
) -> None:
    """Write the prompts of a suite to a file, to draw them elsewhere and judge the images with --images."""
    from leanlens.evaluate.export import write_prompts

    date = {"date": seed} if suite == "fresh" else {"seed": _whole(seed)}
    options = _options(num=num, size=size, prompts=prompts, data=data, library=sources, scorers=(), **date)
    write_prompts(open_suite(suite, options), out, seeds, 0 if suite == "fresh" else _whole(seed))
    print(out)


@app.command()
def rebuild(folder: opt.EvaluationFolder, item: opt.RejudgedItems = None) -> None:
    """Make all tables of an evaluation again from its stored images and judgements."""
    from leanlens.evaluate.results import write_results
    from leanlens.evaluate.results_file import read_results
    from leanlens.evaluate.run import rebuilt
    from leanlens.evaluate.suites.options import SuiteOptions

    command = read_results(folder)["suite"]["command"]
    options = SuiteOptions.from_json(command["options"])
    if options.answers is not None:
        options = replace(options, answers=folder / ANSWERS)  # the folder may have been moved
    suite = open_suite(command["suite"], options)
    write_results(rebuilt(suite, folder, item or [], say), folder)
    print((folder / "table.md").read_text(encoding="utf-8"), end="")


app.command()(table)
app.command()(scorers)
app.command()(vote)


class _Compared:
    """The columns of a comparison, as the options name them."""

    def __init__(
        self, models: list[str] | None, reason: list[str] | None, system_prompt: str | None, images: list[str] | None,
        devices: list[str] | None, dtype: str, steps: int | None, cfg: float | None,
    ):  # fmt: skip
        from leanlens.evaluate.image_models.image_folder import parse_folders
        from leanlens.evaluate.image_models.spec import parse_models

        self.specs = parse_models(models or ([] if images else ["nano"]))
        self.columns = columns_of(self.specs, reason or ["off"], system_prompt)
        self.system_prompt = system_prompt
        self.devices, self.images = devices or ["auto"], images or []
        require_own_names([*(name for name, _, _ in self.columns), *(name for name, _ in parse_folders(self.images))])
        self.load = LoadOptions(device=self.devices[0], dtype=dtype)
        self.steps, self.cfg = steps, cfg

    def own_size(self) -> int:
        """The canvas of the first model."""
        return own_size(self.specs[0]) if self.specs else 1024

    def openers(self) -> list[Any]:
        """What opens the model of each column."""
        return [
            opener_of(spec, name, word, self.load, self.steps, self.cfg, self.system_prompt)
            for name, spec, word in self.columns
        ]

    def openers_elsewhere(self) -> dict[str, Any]:
        """What opens the model of each column on the devices after the first."""
        return openers_elsewhere(self.columns, self.devices, self.load, self.steps, self.cfg)


def _evaluate(
    name: str, options: "SuiteOptions", out: Path, compared: _Compared, references: tuple[bool, bool] = (False, False),
    *, seed: int, seeds: int | None, keep: Path | None, shard: str | None,
) -> None:  # fmt: skip
    """Run an evaluation, write its results, and print them."""
    from leanlens.evaluate.results import write_results
    from leanlens.evaluate.run import check_seeds, draw_part, evaluate
    from leanlens.evaluate.sharding import Sharding, parse_shard

    check_seeds(seed, seeds)  # opening a suite may take minutes, if its scorer has to be fitted
    if keep is not None:
        require_folder(keep)
    part = (0, 1) if shard is None else parse_shard(shard)
    suite = open_suite(name, options)
    models = [*compared.openers(), *folders_of(compared.images, suite, seeds or suite.images_per_prompt, seed)]
    draw = Sharding(compared.openers_elsewhere(), part)
    if shard is not None:
        draw_part(suite, models, out, draw, seed=seed, seeds=seeds, images=keep, say=say)
        print(f"drew part {shard}; put the images of all parts into one folder and run the command without --shard")
        return
    shown = references_of(suite, compared.specs[0], compared.load, *references) if any(references) else []
    command = {"suite": name, "options": options.as_json()}
    done = evaluate(
        suite, models, out, seed=seed, seeds=seeds, references=shown, images=keep, command=command, draw=draw, say=say
    )
    write_results(done, out)
    print((out / "table.md").read_text(encoding="utf-8"), end="")
    print(f"\n{out}")


def require_folder(path: Path) -> None:
    """Raise a ValueError unless a path is a folder that can be written to, or can become one."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"invalid keep {path}: it is a file; expected a folder")
    require_writable(path / "image.png")


def _options(**given: Any) -> "SuiteOptions":
    from leanlens.evaluate.suites.options import SuiteOptions

    return SuiteOptions(**given)


def _judging(judges: list[str] | None, pairs: bool, out: Path) -> dict[str, Any]:
    """The endpoints that judge, where their answers are kept, and whether they compare pairs."""
    if not judges:
        if pairs:
            raise ValueError("--pairs needs a vision model that compares the images: --judge URL#MODEL")
        return {}
    from leanlens.endpoint import read_key
    from leanlens.evaluate.judges.spec import parse_judges

    asked = parse_judges(judges)
    for one in asked:
        read_key(one.endpoint)  # an error now, and not after everything was drawn
    endpoints, names = tuple(one.endpoint for one in asked), tuple(one.name for one in asked)
    return {"endpoints": endpoints, "judges": names, "answers": out / ANSWERS, "pairs": pairs}


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"invalid seed {text!r}: expected a whole number, or a date with the suite fresh") from None


def _read_beside(path: Path) -> dict[str, str]:
    """The table of criteria of another evaluation's results, by model."""
    from leanlens.evaluate.rates import rates_from_json
    from leanlens.evaluate.table import render_table

    try:
        results = read_json(path)
        rates = next(iter(results["rates"].values()))
        title = f"{results['suite']['title']}, {results['suite']['num']} prompts"
        return {title: render_table({name: rates_from_json(one) for name, one in rates.items()})}
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"beside {path} is no results.json of an evaluation: {error}") from None
