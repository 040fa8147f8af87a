"""Implements `leanlens evaluate`, which draws the prompts of a suite with models and compares the judged images."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from leanlens.cli import options as opt
from leanlens.cli.auto import settle
from leanlens.cli.evaluate_table import table
from leanlens.files import read_json
from leanlens.plan.options import LoadOptions

if TYPE_CHECKING:
    from leanlens.evaluate.image_models.spec import ModelSpec
    from leanlens.evaluate.suite import ImageModel, Suite

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
    reason: opt.ComparedReasons = None,
    real: opt.Real = False,
    reconstruction: opt.Reconstruction = False,
    beside: opt.Beside = None,
    steps: opt.Steps = None,
    cfg: opt.Cfg = None,
    size: opt.Canvas = None,
    sources: opt.Sources = None,
    scorer: opt.ScorerNames = None,
    keep: opt.KeptImages = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
) -> None:
    """Draw held-out or people's prompts and score them: objects, counts, colours, positions, style, text, background.

    Needs the extra `eval`, and `ocr` to judge text.
    Images and judgements are kept in --out as soon as they exist; run the command again to resume.
    """
    others = {name: rates for path in beside or [] for name, rates in _read_beside(path).items()}

    from leanlens.evaluate.image_models.spec import parse_models
    from leanlens.evaluate.suites.open import open_suite
    from leanlens.evaluate.suites.options import SuiteOptions

    specs = parse_models(model or ["nano"])
    columns = _columns(specs, reason or ["off"])
    options = SuiteOptions(
        num=num, seed=seed, size=size or _own_size(specs[0]), prompts=prompts, library=sources,
        scorers=tuple(scorer or ["scene"]), needs_truth=real or reconstruction,
    )  # fmt: skip
    suite = open_suite("scenes", options)
    load = LoadOptions(device=device, dtype=dtype)
    models = [_opener(spec, name, word, load, steps, cfg) for name, spec, word in columns]
    references = _references(suite, specs[0], load, real, reconstruction)
    _evaluate(suite, options, out, models, references, seed=seed, seeds=seeds, images=keep)
    for name, rates in others.items():
        print(f"\n{name}:\n\n{rates}", end="")


def _evaluate(
    suite: "Suite", options: Any, out: Path, models: list[Any], references: list[Any], **drawing: Any
) -> None:
    """Run an evaluation, write its results, and print them."""
    from leanlens.evaluate.results import write_results
    from leanlens.evaluate.run import evaluate

    command = {"suite": suite.name, "options": options.as_json()}
    done = evaluate(suite, models, out, references=references, command=command, say=_say, **drawing)
    write_results(done, out)
    print((out / "table.md").read_text(encoding="utf-8"), end="")
    print(f"\n{out}")


@app.command()
def rebuild(folder: opt.EvaluationFolder, item: opt.RejudgedItems = None) -> None:
    """Make all tables of an evaluation again from its stored images and judgements."""
    from leanlens.evaluate.results import write_results
    from leanlens.evaluate.results_file import read_results
    from leanlens.evaluate.run import rebuilt
    from leanlens.evaluate.suites.open import open_suite
    from leanlens.evaluate.suites.options import SuiteOptions

    command = read_results(folder)["suite"]["command"]
    suite = open_suite(command["suite"], SuiteOptions.from_json(command["options"]))
    write_results(rebuilt(suite, folder, item or [], _say), folder)
    print((folder / "table.md").read_text(encoding="utf-8"), end="")


def _columns(specs: "list[ModelSpec]", words: list[str]) -> "list[tuple[str, ModelSpec, str]]":
    """Name, model and word of rewriting of each column.

    Raises:
        ValueError: a word that is not known or is given twice, or a model that has no reasoner.
    """
    from leanlens.reason import reasoner_of_model

    found = []
    for spec in specs:
        for index, word in enumerate(words):
            if word in words[:index]:
                raise ValueError(f"reason {word!r} is given twice; give off, default or both")
            if reasoner_of_model(spec.source, word) is None and word != "off":
                raise ValueError(f"invalid reason {word!r} for {spec.source}: it has no reasoner; expected off")
            name = spec.name if len(words) == 1 else word if len(specs) == 1 else f"{spec.name}, {word}"
            found.append((name, spec, word))
    return found


def _opener(
    spec: "ModelSpec", name: str, word: str, load: LoadOptions, steps: int | None, cfg: float | None
) -> "Callable[[], ImageModel]":
    """What opens the model of a column."""

    def opened() -> "ImageModel":
        from leanlens.evaluate.image_models.lens import LensModel
        from leanlens.pipeline.open import open_model
        from leanlens.reason import reasoner_of_model

        settled = settle(spec.source, load, _say, num_inference_steps=steps, guidance_scale=cfg)
        reasoner = reasoner_of_model(settled.model, word)
        return LensModel(open_model(settled.model, options=settled.options), name, reasoner, steps, cfg)

    return opened


def _references(
    suite: "Suite", spec: "ModelSpec", load: LoadOptions, real: bool, reconstruction: bool
) -> "list[Callable[[], ImageModel]]":
    """What opens the columns of true pictures."""
    from leanlens.evaluate.image_models.true_pictures import Reconstruction, TruePictures
    from leanlens.pipeline.open import open_model

    def reconstructed() -> "ImageModel":
        return Reconstruction(open_model(spec.source, options=load), suite.items)

    shown: list[Callable[[], ImageModel]] = [reconstructed] if reconstruction else []
    return [*shown, *([lambda: TruePictures(suite.items)] if real else [])]


def _own_size(spec: "ModelSpec") -> int:
    """The base of a model's canvas in pixels."""
    from leanlens.hub import locate
    from leanlens.presets import PRESETS, is_made

    if spec.kind == "lens" and not is_made(spec.source):
        config = locate(spec.source) / "vae" / "config.json"
        if config.is_file():
            return int(read_json(config)["sample_size"])
    return PRESETS[spec.source].base_resolution if spec.source in PRESETS else 1024


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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


app.command()(table)
