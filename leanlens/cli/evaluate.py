"""Implements `leanlens evaluate`, which draws prompts with a model and scores the images."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from leanlens.cli import options as opt
from leanlens.cli.auto import settle
from leanlens.cli.evaluate_table import table
from leanlens.files import read_json
from leanlens.plan.options import LoadOptions

if TYPE_CHECKING:
    from leanlens.evaluate.results import Evaluation
    from leanlens.scenes.icons import Library
    from leanlens.score.protocol import Scorer

app = typer.Typer(no_args_is_help=True, help="Judge a model by what it draws.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def scenes(
    out: opt.ResultsFolder,
    model: opt.EvaluatedModel = "nano",
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
    scorer: opt.ScorerName = "scene",
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
) -> None:
    """Draw held-out or people's prompts and score them: objects, counts, colours, positions, style, text, background.

    Needs the extra `eval`, and `ocr` to judge text.
    Drawn images are kept beside --out until all are done; run the command again to resume.
    """
    others = {name: rates for path in beside or [] for name, rates in _read_beside(path).items()}
    _require_new(out)

    from leanlens.evaluate.results import write_evaluation
    from leanlens.evaluate.scenes import evaluate_scenes
    from leanlens.pipeline.open import open_model
    from leanlens.scenes.icons import library

    options = LoadOptions(device=device, dtype=dtype)
    settled = settle(model, options, _say, num_inference_steps=steps, guidance_scale=cfg)
    reasoners = _reasoners(settled.model, reason or ["off"])
    icons = library(sources)
    judge = _scorer(scorer, icons)
    opened = open_model(settled.model, options=settled.options)
    kept = out.with_name(f"{out.name}.drawn")
    done = evaluate_scenes(
        opened, num, seed, icons, judge, prompts,
        steps=steps, guidance=cfg, size=size, real=real, reconstruction=reconstruction, say=_say,
        seeds=seeds, reasoners=reasoners, kept=kept,
    )  # fmt: skip
    write_evaluation(done, out, others, kept)
    _print(done, others)
    print(f"\n{out}")


def _require_new(out: Path) -> None:
    """Raise a ValueError unless `out` can be made and holds nothing."""
    from leanlens.files import require_writable

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out {out} exists already; give a path that does not exist, or an empty folder")
    require_writable(out)


def _scorer(name: str, icons: "Library") -> "Scorer":
    from leanlens.score.named import open_scorer
    from leanlens.score.scene import SceneScorer

    return open_scorer(name, {"scene": lambda: SceneScorer(icons)})


def _print(done: "Evaluation", others: dict[str, Any]) -> None:
    """Print the table of rates, and how many images could not be scored."""
    from leanlens.evaluate.rates import count_failures
    from leanlens.evaluate.table import describe_failures, render_table

    print(render_table({**done.rates, **others}, done.fid, done.differences), end="")
    print(describe_failures({name: count_failures(scores) for name, scores in done.scores.items()}), end="")


def _reasoners(model: str, words: list[str]) -> dict[str, Any]:
    """Word -> the reasoner of a model; None for "off".

    Raises:
        ValueError: a word that is not known or is given twice, or a model that has no reasoner.
    """
    from leanlens.reason import reasoner_of_model

    found: dict[str, Any] = {}
    for word in words:
        if word in found:
            raise ValueError(f"reason {word!r} is given twice; give off, default or both")
        found[word] = reasoner_of_model(model, word)
        if word != "off" and found[word] is None:
            raise ValueError(f"invalid reason {word!r} for {model}: it has no reasoner; expected off")
    return found


def _read_beside(path: Path) -> dict[str, Any]:
    """The model's rates in another evaluation's results, by the name of their column."""
    from leanlens.evaluate.rates import rates_from_json

    try:
        results = read_json(path)
        settings, rates = results["settings"], results["rates"]
        name = f"{settings['model']['name']}, {settings['prompts']} prompts"
        words = [word for word in settings.get("reason", ()) if word in rates]
        if words:
            return {f"{name}, {word}": rates_from_json(rates[word]) for word in words}
        return {name: rates_from_json(rates[settings["model"]["name"]])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"beside {path} is no results.json of an evaluation: {error}") from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


app.command()(table)
