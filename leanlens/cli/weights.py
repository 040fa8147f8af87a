"""Implements `leanlens weights`, which inspects, verifies, assembles, converts and downloads weights.

`verify` exits with code 2 if a check fails.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from leanlens.cli.options import OUTPUT, AsJson, flag, option

PARTS, SOURCES = "Parts", "Sources"

app = typer.Typer(no_args_is_help=True, help="Inspect, verify, assemble, convert and download files of weights.")

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

Dtype = Annotated[str | None, option(OUTPUT, "Precision: bf16, fp16 or fp32. Default: that of the files.", "--dtype")]


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A file or folder of weights.")],
    as_json: AsJson = False,
) -> None:
    """Describe a file or folder of weights. Reads headers only."""
    from leanlens.weights.layouts import identify

    layout = identify(path)
    if as_json:
        typer.echo(json.dumps(layout.summary(), indent=2))
        return
    typer.echo(_described(layout.summary()))


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A file or folder of weights.")],
    quick: Annotated[bool, flag("Check", "quick", "Check names, shapes and dtypes only.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check names, shapes, dtypes, finite values and checksums. Exit code 2 if anything is wrong."""
    from leanlens.weights.verify import verify as check

    findings = check(path, quick=quick, progress=not as_json)
    if as_json:
        rows = [{"level": found.level, "path": str(found.path), "message": found.message} for found in findings]
        typer.echo(json.dumps(rows, indent=2))
    else:
        for found in findings:
            typer.echo(str(found))
        if counts := _counted([found.level for found in findings]):
            typer.echo(counts)
    if any(found.level == "error" for found in findings):
        raise typer.Exit(2)


@app.command()
def assemble(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    transformer: Annotated[Path, option(PARTS, "Lens transformer: a file or folder.")],
    text_encoder: Annotated[Path, option(PARTS, "GPT-OSS text encoder: a file or folder.")],
    vae: Annotated[Path, option(PARTS, "FLUX.2 autoencoder: a file or folder.")],
    tokenizer: Annotated[
        Path | None, option(PARTS, "Tokenizer: a folder or tokenizer.json. Default: the text encoder's own.")
    ] = None,
    dtype: Dtype = None,
) -> None:
    """Build one pipeline folder in the official layout from separate parts."""
    wanted = _dtype(dtype)
    from leanlens.weights.assemble import assemble as build

    typer.echo(build(out, transformer, text_encoder, vae, tokenizer, wanted, progress=True))


@app.command()
def convert(
    path: Annotated[Path, typer.Argument(help="One component: a file or folder.")],
    out: Annotated[Path, typer.Argument(help="Folder (diffusers) or .safetensors file (comfy) to make.")],
    to: Annotated[
        str, option(OUTPUT, "Layout: diffusers (a component folder) or comfy (a single transformer file).")
    ] = "diffusers",
    dtype: Dtype = None,
    quant: Annotated[
        str, option(OUTPUT, "Quantisation of a transformer's attention and MLPs: none, fp8, mxfp8, int8, nf4 or int4.")
    ] = "none",
) -> None:
    """Convert one component to another layout, dtype or quantisation.

    Without --quant, quantised weights become bf16.
    """
    wanted = _dtype(dtype)
    from leanlens.weights.assemble import convert as rewrite

    typer.echo(rewrite(path, out, to, wanted, progress=True, quant=quant))


@app.command()
def fetch(
    model: Annotated[str | None, typer.Argument(help="turbo, rl, base, or a repository id owner/name.")] = None,
    to: Annotated[
        Path | None, option(OUTPUT, "Folder to make. Default: one in this machine's folder of models.")
    ] = None,
    mirror: Annotated[
        list[str] | None,
        option(
            SOURCES,
            "Mirror to use, and no other: a repository id, an http(s) folder with SHA256SUMS, or a folder. Repeatable.",
        ),
    ] = None,
    show_list: Annotated[bool, option(SOURCES, "Show what can be downloaded, and from where.", "--list")] = False,
) -> None:
    """Download a released model and verify the checksums of its mirror.

    An interrupted download resumes.
    """
    from leanlens.hub import describe_sources
    from leanlens.hub import fetch as download

    if show_list:
        typer.echo(describe_sources())
    elif model is None:
        raise ValueError("MODEL is missing: expected turbo, rl, base or a repository id, or --list for a list")
    else:
        typer.echo(download(model, to, mirror or None))


def _dtype(name: str | None) -> Any:
    if name is None:
        return None
    if name not in DTYPES:
        raise ValueError(f"invalid --dtype {name}: expected {', '.join(DTYPES)}")
    import torch

    return getattr(torch, DTYPES[name])


def _counted(levels: list[str]) -> str:
    """The summary under a list of findings; empty if there is only one line."""
    errors, warnings = levels.count("error"), levels.count("warning")
    if not errors + warnings:
        return ""
    words = [
        f"{count} {word}{'s' * (count != 1)}" for count, word in ((errors, "error"), (warnings, "warning")) if count
    ]
    return f"{'failed' if errors else 'ok'}: {', '.join(words)}"


def _size(count: int) -> str:
    """Bytes in the largest suitable unit."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count} bytes"


def _described(summary: dict[str, Any], indent: str = "") -> str:
    facts = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in summary["facts"].items() if value is not None
    )
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in sorted(summary["dtypes"].items()))
    rows = {
        "": f"{Path(summary['path']).name}: {summary['title']}",
        "size": f"{_size(summary['bytes'])} in {len(summary['files'])} file(s)",
        "weights": f"{summary['parameters']:,} parameters in {summary['tensors']} tensors ({dtypes})" if dtypes else "",
        "facts": facts,
        "missing": ", ".join(summary["missing"]),
        "cannot be opened": summary["refusal"] and f"it {summary['refusal']}",
        "use": "" if summary["refusal"] else summary["advice"],
    }
    lines = [f"{indent}  {key}: {value}" if key else f"{indent}{value}" for key, value in rows.items() if value]
    parts = [_described(part, f"{indent}    ") for part in summary["parts"].values()]
    return "\n".join([*lines, *parts])
