"""`leanlens evaluate`: a model's answers, judged."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from leanlens.cli.auto import Wishes, settle
from leanlens.cli.options import IMAGE, MODEL, MODELS, OUTPUT, Cfg, Device, Dtype, Steps, flag, option
from leanlens.files import read_json

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
    num: Annotated[int, option(IMAGE, "Number of prompts; one image for each.", "-n", "--num")] = 200,
    seed: Annotated[int, option(IMAGE, "Seed of the prompts and of the images.")] = 0,
    prompts: Annotated[
        str, option(IMAGE, "Prompts to use: dense or brief captions of held-out scenes, or human, written by people.")
    ] = "dense",
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
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Draw held-out prompts and score them: objects, counts, colours, positions, style, text, background.

    Needs the extra `eval`; `text` is judged with the extra `ocr`.
    """
    from leanlens.evaluate.table import rates_from_json, render_table
    from leanlens.files import require_writable

    others: dict[str, Any] = {}
    for path in beside or []:
        results = _read_results(path)
        name = results["settings"]["model"]["name"]
        others[f"{name}, {results['settings']['prompts']} prompts"] = rates_from_json(results["rates"][name])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out {out} exists already; give a path that does not exist, or an empty folder")
    require_writable(out)

    from leanlens.evaluate.scenes import evaluate_scenes, write_evaluation
    from leanlens.pipeline.placement import open_model
    from leanlens.scenes.icons import library
    from leanlens.score.scene import SceneScorer

    icons = library(sources)
    scorer = SceneScorer(icons)
    settled = settle(model, Wishes(device, dtype, steps=steps, cfg=cfg), _say)
    opened = open_model(settled.model, device, dtype, holding=settled.holding)
    done = evaluate_scenes(
        opened, num, seed, icons, scorer, prompts,
        steps=steps, guidance=cfg, size=size, real=real, reconstruction=reconstruction, say=_say,
    )  # fmt: skip
    write_evaluation(done, out, others)
    print(render_table({**done.rates, **others}, done.fid), end="")
    print(f"\n{out}")


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = read_json(path)
        return {"settings": results["settings"], "rates": results["rates"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"beside {path} is no results.json of an evaluation: {error}") from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
