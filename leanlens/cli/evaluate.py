"""`leanlens evaluate`: a model's answers, judged."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from leanlens.cli.auto import settle
from leanlens.cli.options import IMAGE, MODEL, MODELS, OUTPUT, Cfg, Device, Dtype, Steps, flag, option
from leanlens.files import read_json
from leanlens.plan.options import LoadOptions

app = typer.Typer(no_args_is_help=True, help="Judge a model by what it draws.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def scenes(
    out: Annotated[Path, option(OUTPUT, "Folder to make, with results.json, table.md and sheet.png.", "-o", "--out")],
    model: Annotated[
        str,
        option(MODEL, f"Model: {MODELS}.", "-m", "--model"),
    ] = "nano",
    num: Annotated[
        int | None,
        option(IMAGE, "Number of prompts. Default: 200 scenes, or all lines of a file.", "-n", "--num"),
    ] = None,
    seeds: Annotated[int, option(IMAGE, "Images of each prompt, with a seed each; rates are means over them.")] = 1,
    seed: Annotated[int, option(IMAGE, "Seed of the prompts and of the images.")] = 0,
    prompts: Annotated[
        str,
        option(
            IMAGE,
            "Prompts to use: dense or brief captions of held-out scenes, human, written by people, or a file with a "
            "JSON object of prompt and truth on each line.",
        ),
    ] = "dense",
    reason: Annotated[
        list[str] | None,
        option(
            IMAGE,
            "Rewriting of the prompts before they are drawn: off or default. Give both to compare them. Default: off.",
        ),
    ] = None,
    real: Annotated[bool, flag(IMAGE, "real", "Score the true images too.")] = False,
    reconstruction: Annotated[
        bool, flag(IMAGE, "reconstruction", "Score the true images after the autoencoder too.")
    ] = False,
    beside: Annotated[
        list[Path] | None, option(OUTPUT, "results.json of another model, shown as a further column. Repeatable.")
    ] = None,
    steps: Steps = None,
    cfg: Cfg = None,
    size: Annotated[int | None, option(IMAGE, "Base of the canvas in pixels. Default: the model's own.")] = None,
    sources: Annotated[
        str | None,
        option(IMAGE, "Icons: full, sample, or the folder of a library. Default: full where it is here."),
    ] = None,
    scorer: Annotated[
        str,
        option(
            IMAGE,
            "Scorer: scene, one that an installed package adds, or MODULE:NAME of a class or function of yours.",
        ),
    ] = "scene",
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Draw held-out or people's prompts and score them: objects, counts, colours, positions, style, text, background.

    Needs the extra `eval`; `text` is judged with the extra `ocr`. Images that are drawn are kept beside --out until all
    are; the same command goes on from them.
    """
    from leanlens.evaluate.rates import count_failures
    from leanlens.evaluate.table import describe_failures, render_table
    from leanlens.files import require_writable

    others = {name: rates for path in beside or [] for name, rates in _read_beside(path).items()}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out {out} exists already; give a path that does not exist, or an empty folder")
    require_writable(out)
    kept = out.with_name(f"{out.name}.drawn")

    from leanlens.evaluate.results import write_evaluation
    from leanlens.evaluate.scenes import evaluate_scenes
    from leanlens.pipeline.open import open_model
    from leanlens.scenes.icons import library
    from leanlens.score.named import open_scorer
    from leanlens.score.scene import SceneScorer

    options = LoadOptions(device=device, dtype=dtype)
    settled = settle(model, options, _say, num_inference_steps=steps, guidance_scale=cfg)
    reasoners = _reasoners(settled.model, reason or ["off"])
    icons = library(sources)
    judge = open_scorer(scorer, {"scene": lambda: SceneScorer(icons)})
    opened = open_model(settled.model, options=settled.options)
    done = evaluate_scenes(
        opened, num, seed, icons, judge, prompts,
        steps=steps, guidance=cfg, size=size, real=real, reconstruction=reconstruction, say=_say,
        seeds=seeds, reasoners=reasoners, kept=kept,
    )  # fmt: skip
    write_evaluation(done, out, others, kept)
    print(render_table({**done.rates, **others}, done.fid, done.differences), end="")
    print(describe_failures({name: count_failures(scores) for name, scores in done.scores.items()}), end="")
    print(f"\n{out}")


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
            raise ValueError(
                f"reason {word!r} is not accepted for {model}, which no reasoner writes captions for; use off"
            )
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
