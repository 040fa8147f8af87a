"""`leanlens evaluate`: a model's answers, judged."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from leanlens.cli.auto import Wishes, settle

app = typer.Typer(no_args_is_help=True, help="Judge a model by what it draws.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def scenes(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to make: results.json, table.md, sheet.png.")],
    model: Annotated[
        str,
        typer.Option("-m", "--model", help="nano, turbo, rl, base, auto, a folder, a file, a repository id, or toy."),
    ] = "nano",
    num: Annotated[int, typer.Option("-n", "--num", help="Prompts, one picture for each.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the prompts and of the pictures.")] = 0,
    prompts: Annotated[
        str, typer.Option(help="dense or brief captions of held-out scenes, or human: written by people.")
    ] = "dense",
    real: Annotated[bool, typer.Option("--real", help="Score the true pictures too.")] = False,
    reconstruction: Annotated[
        bool, typer.Option("--reconstruction", help="Score the true pictures after the autoencoder too.")
    ] = False,
    beside: Annotated[
        list[Path] | None, typer.Option(help="results.json of another model, as a further column; may be repeated.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Noise levels; the model's own number without it.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance scale; the model's own without it, 1 is none.")] = None,
    size: Annotated[int | None, typer.Option(help="Base of the canvas in pixels; the model's own without it.")] = None,
    sources: Annotated[
        str | None, typer.Option(help="Icons: full, sample, or the folder of a library; full where it is there.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
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
        results = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": results["settings"], "rates": results["rates"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"beside {path} is no results.json of an evaluation: {error}") from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
